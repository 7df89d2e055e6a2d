"""Read the numbers in pictures: cut a digit out along its mask, classify it, put digits in a row."""
