"""The study behind `make study`: the lecture's claims, measured on small networks."""
