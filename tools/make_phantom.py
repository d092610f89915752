"""Writes a phantom (abdomen, chest or spine): files, exact masks, a manifest and a picture to look at."""

from cfxai.data.make_phantom import main

if __name__ == "__main__":
    raise SystemExit(main())
