"""Writes the manifest (CSV) of a folder of images or an `.npz` stack."""

from cfxai.data.make_manifest import main

if __name__ == "__main__":
    raise SystemExit(main())
