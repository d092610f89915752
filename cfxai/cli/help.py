"""The `--help` of the tools, written from what `conf/` offers; imports nothing heavy."""

from cfxai.config.catalogue import experiments, groups, options

EXIT_CODES = """\
exit codes:
  0  done                        3  data: missing, corrupted or leaking
  1  a bug (with a traceback)    4  numerics: a loss or gradient is not finite
  2  configuration               5  preempted: saved, continue it with -cp"""

TRAIN = """\
Train an experiment, sweep it, or continue a run.

usage:
  python tools/train.py -c EXPERIMENT.yaml [key=value …]        a new run
  python tools/train.py -c EXPERIMENT.yaml -m key=a,b,c …       a sweep: one run per combination
  python tools/train.py -cp RUN [trainer.*=… evaluation.*=…]    continue a run

example:
  python tools/train.py -c conf/coin_kidney.yaml trainer.steps=500 run.name=short
  python tools/train.py -cp runs/short trainer.steps=2000
  python tools/eval_counterfactual.py -cp runs/short -cft 0.25
  python tools/train.py -c conf/coin_kidney.yaml -m loss.kl=0.5,1,2 seed=0,1
  python tools/train.py -c conf/coin_paper.yaml -m 'experiment/coin=glob(table3_*)'

flags:
  -c, --config FILE    the experiment: a file of conf/, or your own that begins with defaults: [NAME, _self_]
  -cp, --run RUN       the run to continue: its directory or its checkpoints/last.ckpt
  -m, --multirun       start one run for each combination of comma-separated values, or of the options that match
                       'GROUP=glob(PATTERN)'; then print what each found, and beside it what a paper printed
  -h, --help           this text
  --cfg job|hydra|all  print the composed config and do nothing else; with --resolve, interpolations resolved
  -p, --package KEY    with --cfg: only this section
  --info [WHAT]        how Hydra composes the config: all, config, defaults, defaults-tree, plugins, searchpath
  -sc, --shell-completion install=bash|zsh|fish

settings:
  GROUP=OPTION         choose a component, for instance data=nifti, or an experiment: experiment/coin=table3_a
  key=value            change a value; conf/base.yaml explains those that belong to no component
  +key=value, ~key     add a key, remove a key
  run.root, run.name   a new run writes to ROOT/NAME, then NAME-2, NAME-3 …; by default runs/EXPERIMENT"""

EVALUATE = """\
Judge a run's counterfactuals, and saliency maps of the same classifier, as lesion masks on the test split.

usage:
  python tools/eval_counterfactual.py -cp RUN [flags]

example:
  python tools/train.py -c conf/coin_kidney.yaml run.name=short
  python tools/eval_counterfactual.py -cp runs/short -cft 0.25 -pcf -at rise layer_cam

flags (default: what the run was configured with; in brackets what that is unless it was changed):
  -cp, --run RUN                   the run: its directory, or a file in its checkpoints/
  -cft, --cf-threshold T           mask = |x - x_cf| > T, T in [0, 1]; auto: best on the validation split [auto]
  -t, --tau P                      change of the target's probability from which a counterfactual is valid [0.8]
  -pcf, --postprocess              open, fill holes and drop small components of the masks
  -st, --saliency-threshold T      the same as -cft for saliency maps, normalised to [0, 1] [0.975, or auto]
  -sf, --skip-fid                  leave out FID and KID
  -fa, --faithfulness              also remove pixels in each map's order (deletion, insertion, ROAD), and measure
                                   localisation without thresholds and sparseness
  -sa, --sanity                    also check the attributors on randomised classifiers, on another class and on
                                   slightly changed images
  -at, --attributors NAME … | all  saliency methods to judge beside the counterfactuals
  -op, --operating-point P | RULE  of the classifier: probability from which an image counts as abnormal, or youden,
                                   sensitivity>=0.95, specificity>=0.95: chosen on the validation split [0.5]
  -n, --max-images N               at most so many images, evenly spaced; all attributors on all images take hours [all]
  -h, --help                       this text"""


REGIONS = """\
Where in the anatomy do a run's maps lie, and does that differ between normal and abnormal patients?

Writes RUN/regions/NAME/: index.html (images, maps and regions to look at, box plots, every test in words), scores.csv
(one row per image, method and region) and tests.json.

usage:
  python tools/regions.py -cp RUN regions=NAME [regions.KEY=VALUE …] [flags]

example:
  python tools/regions.py -cp runs/short regions=lung_zones -at layer_cam rise
  python tools/regions.py -cp runs/short regions=grid regions.rows=2 regions.columns=2 -cov age sex --table patients.csv

flags (default in brackets):
  -cp, --run RUN                   the run: its directory, or a file in its checkpoints/
  -at, --attributors NAME … | all  whose maps, beside the run's counterfactuals [those the run is judged with]
  -s, --split test|val|train       which images [test]
  -sc, --score NAME                what is compared: share of the map in the region, enrichment = log(share / area),
                                   mean, positive or negative sum [share]
  -ct, --contrast A B              every map is about logit A minus logit B, whatever the image's label [1 0]
  -cov, --covariates COLUMN …      adjust for these: score (the classifier's), or columns of --table
  --table FILE.csv                 a row per image, with its id (as in scores.csv)
  -pub, --published seed|paper     also the published tests, for repetition
  --findings FILE --terms FILE     readers' findings per image, and which regions each term is about
  -p, --permutations N             [5000]
  -n, --max-images N               at most so many images, evenly spaced [all]
  --seed N                         of permutations and bootstrap [0]
  -h, --help                       this text"""


EXPLAIN = """\
Explain images with a run: what each would have looked like for the classifier to call it otherwise.

An image that the classifier calls abnormal is made normal, and one that it calls normal abnormal if the method can.
Writes to DIR, in each image's own size and geometry: NAME-counterfactual, -difference, -mask and -ATTRIBUTOR (pictures
and single DICOM files as 16 bit PNG, volumes as NIfTI), NAME-panel.png to look at, and explanations.csv: for each image
the probabilities before and after, whether the class flipped, and the size of the mask.

usage:
  python tools/explain.py -cp RUN IMAGE… [flags]

example:
  python tools/explain.py -cp runs/short patient.nii.gz
  python tools/explain.py -cp runs/short ~/ct --out explained -at layer_cam -cft 0.25

images: files (PNG, JPEG, TIFF, DICOM, NIfTI, NRRD, .npy) of any size, and folders of them; a folder with the slices of
one DICOM series is one volume. One that cannot be used is named, the others go on, and the exit code is 3.

flags (default in brackets):
  -cp, --run RUN                   the run: its directory, or a file in its checkpoints/
  -o, --out DIR                    a new or empty folder [RUN/explanations, then explanations-1 …]
  -at, --attributors NAME … | all  saliency maps to write beside the counterfactual [none]
  -cft, --cf-threshold T           mask = |x - x_cf| > T, T in [0, 1] [that of the run's evaluation, or 0.25]
  --sweep                          also NAME-sweep.png and .gif: the image at every severity, if the method has a scale
                                   of it (method=latent_shift); of a volume in slices, the one that changes most
  -h, --help                       this text"""


APP = """\
Explain images on a page in the browser. It is served to this computer only, and needs no network.

usage:
  python tools/app.py -cp RUN [flags]

example:
  python tools/app.py -cp runs/short
  python tools/app.py -cp runs/short --reader-study ratings.csv

flags (default in brackets):
  -cp, --run RUN                   the run: its directory, or a file in its checkpoints/
  --port N                         [7860, or the next that is free]
  --reader-study FILE.csv          a third tab: can readers tell counterfactuals from real images? Their ratings are
                                   added to the file
  -h, --help                       this text"""


LATENT_HEADS = """\
How well do linear heads read a table of latents, or of any other features?

Fits five heads to the rows of split train alone, penalties by cross-validation within them, and scores them on test,
or on val where there is no test: logistic regression, a linear SVM and LDA tell normal from any finding; ordinal
regression (proportional odds), and least squares of the grade on the distance to an SVM's hyperplane, tell the grade.

usage:
  python tools/latent_heads.py FILE.npz [flags]

example:
  python tools/latent_heads.py retina_latents.npz --json heads.json

FILE.npz holds features [n d], labels [n] (0 = normal, above it grades, or 1), split [n] (train, val, test) and, if
known, groups [n] (patients): they stay within a fold of the cross-validation, and the bootstrap draws them.

flags (default in brackets):
  --json FILE    every score, interval and penalty; with both val and test, those on val under "val"
  --draws N      bootstrap samples of the intervals [2000]
  --seed N       of folds and bootstrap [0]
  -h, --help     this text"""


def train_help() -> str:
    """The text of `tools/train.py --help`."""
    listing = [_table("experiments:", experiments())]
    listing += [_table(f"{group}:", members) for group, members in groups().items()]
    return "\n\n".join([TRAIN, *listing, EXIT_CODES])


def evaluate_help() -> str:
    """The text of `tools/eval_counterfactual.py --help`."""
    return "\n\n".join([EVALUATE, _table("attributors:", options("attribution")), EXIT_CODES])


def regions_help() -> str:
    """The text of `tools/regions.py --help`."""
    return "\n\n".join(
        [REGIONS, _table("regions:", options("regions")), _table("attributors:", options("attribution")), EXIT_CODES]
    )


def explain_help() -> str:
    """The text of `tools/explain.py --help`."""
    return "\n\n".join([EXPLAIN, _table("attributors:", options("attribution")), EXIT_CODES])


def app_help() -> str:
    """The text of `tools/app.py --help`."""
    return "\n\n".join([APP, EXIT_CODES])


def latent_heads_help() -> str:
    """The text of `tools/latent_heads.py --help`."""
    return "\n\n".join([LATENT_HEADS, EXIT_CODES])


def _table(title: str, rows: dict[str, str]) -> str:
    width = max(map(len, rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {text}".rstrip() for name, text in rows.items())])
