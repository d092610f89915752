"""Train an experiment, sweep it, or continue a run; see `python tools/train.py --help`."""

from cfxai.cli.commands import train

if __name__ == "__main__":
    train()
