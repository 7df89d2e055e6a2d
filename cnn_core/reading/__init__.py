"""Read the numbers in pictures: cut digits out along their masks, and put the classified digits in order."""
