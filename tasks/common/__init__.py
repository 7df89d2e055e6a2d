"""Code that several stages share and that their results depend on."""
