"""Generated pictures: scenes drawn for the offline sample, and house numbers composed of real digits."""
