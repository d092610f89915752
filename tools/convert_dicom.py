"""Writes DICOM radiographs as 16-bit PNG."""

from cfxai.data.convert import main

if __name__ == "__main__":
    raise SystemExit(main())
