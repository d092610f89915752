"""Explain images on a page in the browser; see `python tools/app.py --help`."""

from cfxai.cli.app import app

if __name__ == "__main__":
    app()
