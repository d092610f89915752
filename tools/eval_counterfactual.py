"""Judge a run's counterfactuals and saliency maps; see `python tools/eval_counterfactual.py --help`."""

from cfxai.cli.commands import evaluate

if __name__ == "__main__":
    evaluate()
