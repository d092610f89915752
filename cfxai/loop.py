"""The one training loop. It knows steps, devices and checkpoints; what is learned is the method's business.

Randomness is a function of (seed, step), batches are too, and a checkpoint holds everything else: an interrupted run
continues to the same weights, bit for bit, on the same number of threads.
"""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from cfxai.errors import NumericsError, Preempted
from cfxai.protocols import Clips, Method
from cfxai.run.checkpoint import State, load_checkpoint, restore, save_checkpoint
from cfxai.run.directory import Run
from cfxai.run.progress import Track
from cfxai.run.scalars import Scalars

log = logging.getLogger("cfxai")

Batches = Callable[[int], Mapping[str, Any]]
Validate = Callable[[int], dict[str, float]]


def fit(
    method: Method,
    batches: Batches,
    run: Run,
    fabric: Fabric,
    *,
    steps: int,
    seed: int,
    validate: Validate,
    validate_every: int,
    checkpoint_every: int,
    log_every: int = 10,
    accumulate: int = 1,
    label: str = "training",
) -> None:
    """Trains `method` for `steps` steps, from the last checkpoint of `run` when there is one.

    `validate(steps done)` returns scalars; a "score" among them (higher is better) decides what `best.ckpt` holds. Of
    `accumulate` see `train_step`.

    Raises:
        NumericsError: a loss or gradient is not finite; nothing has stepped on it.
        Preempted: a signal asked for it; the checkpoint is written.
    """
    last = run.checkpoints / "last.ckpt"
    state: State = {"step": 0, "best": -math.inf, "threads": torch.get_num_threads()}
    if last.exists():
        tensors, state = load_checkpoint(last)
        restore(method, tensors, state)
        if state["threads"] != torch.get_num_threads():
            log.warning(
                "warning: this run was on %d threads and continues on %d: its weights will not be bit-identical",
                state["threads"],
                torch.get_num_threads(),
            )
    if state["step"] >= steps:
        return
    if state["step"]:
        log.info("%s: continuing from step %d", label, state["step"])
    optimizers = {name: fabric.setup_optimizers(optimizer) for name, optimizer in method.optimizers.items()}
    if (scaler := gradient_scaler(fabric)) is not None and "scaler" in state:
        scaler.load_state_dict(state["scaler"])
    scalars = Scalars(run.directory, start=state["step"])
    try:
        with Track(label, steps, done=state["step"]) as track:
            for step in range(state["step"], steps):
                values = train_step(method, optimizers, fabric, batches(step), step, seed, accumulate)
                done = step + 1
                validates = done % validate_every == 0 or done == steps
                if validates:
                    found = validate(done)
                    values |= {f"val_{name}": value for name, value in found.items()}
                    if found.get("score", -math.inf) > state["best"]:
                        state = {**state, "step": done, "best": found["score"], **scale(fabric)}
                        save_checkpoint(run.checkpoints / "best.ckpt", method, state)
                scalars.write(step, values, event=validates or done % log_every == 0)
                stop = run.stop_requested()
                if done % checkpoint_every == 0 or done == steps or stop:
                    state = {**state, "step": done, "threads": torch.get_num_threads(), **scale(fabric)}
                    save_checkpoint(last, method, state)
                if stop and done < steps:
                    raise Preempted(run.preempted_sentence())
                track.advance(_note(values))
    finally:
        scalars.close()


def train_step(
    method: Method,
    optimizers: Mapping[str, Any],
    fabric: Fabric,
    batch: Mapping[str, Any],
    step: int,
    seed: int,
    accumulate: int = 1,
) -> dict[str, float]:
    """One step of every optimizer that the method asks for; returns the loss terms. Phases without terms do not step.

    With `accumulate`, so many phases of an optimizer in a row are one step, by the mean of their losses.

    Raises:
        NumericsError: a term or a gradient is not finite; that optimizer has not stepped.
    """
    torch.manual_seed(keyed(seed, step))
    tensors = {name: fabric.to_device(value) for name, value in batch.items() if isinstance(value, Tensor)}
    phases = method.losses(tensors, step)
    passed: Counter[str] = Counter()
    values: dict[str, float] = {}
    while True:
        # Entered anew for each phase: one autocast around all of them would reuse bf16 weights from before the step.
        with fabric.autocast():
            phase = next(phases, None)
        if phase is None:
            return values
        name, terms = phase
        if not terms:
            continue
        total = torch.stack([value.float() for value in terms.values()]).sum()
        found = torch.stack([value.detach().float() for value in terms.values()]).tolist()
        if not all(map(math.isfinite, found)):
            wrong = [term for term, value in zip(terms, found, strict=True) if not math.isfinite(value)]
            raise NumericsError(
                f"step {step}: loss term {', '.join(wrong)} of the {name} is not finite; it was not stepped; lower the "
                "learning rate or that term's weight, or check the images."
            )
        first = passed[name] % accumulate == 0
        passed[name] += 1
        for term, value in zip(terms, found, strict=True):
            values[term] = value / accumulate + (0.0 if first else values[term])
        if first:
            optimizers[name].zero_grad()
        fabric.backward(total / accumulate)
        if passed[name] % accumulate == 0:
            prepare_gradients(method, name, fabric, step)
            optimizers[name].step()


def prepare_gradients(method: Method, name: str, fabric: Fabric, step: int) -> None:
    """Cuts the gradients of that optimizer to the norm that the method wants; one look at them serves this and a check.

    Raises:
        NumericsError: a gradient is not finite, named by its parameter. Not so while fp16's gradients are scaled up:
            after an overflow the scaler leaves out the step and halves its scale.
    """
    most = method.clips.get(name) if isinstance(method, Clips) else None
    scaler = gradient_scaler(fabric)
    scaled = scaler is not None and scaler.get_scale() > 1
    if scaled and most is None:
        return
    owned = [p for group in method.optimizers[name].param_groups for p in group["params"] if p.grad is not None]
    if not owned:
        return
    if scaler is not None and most is not None:
        scaler.unscale_(method.optimizers[name])  # or what is scaled up would be cut
    norms = torch.stack(torch._foreach_norm([p.grad for p in owned]))
    if not scaled and not torch.isfinite(norms).all():
        check_finite(method, name, owned, step)
    if most is not None and (share := most / (norms.norm() + 1e-6)) < 1:
        torch._foreach_mul_([p.grad for p in owned], share)


def check_finite(method: Method, name: str, owned: Sequence[nn.Parameter], step: int) -> None:
    """Raises NumericsError if a gradient is not; that its norm overflows is no proof."""
    names = {id(p): n for n, p in method.modules.named_parameters()}
    wrong = [names.get(id(p), "?") for p in owned if p.grad is not None and not torch.isfinite(p.grad).all()]
    if wrong:
        raise NumericsError(
            f"step {step}: the gradient of {wrong[0]} ({len(wrong)} in all) is not finite; the {name} was not stepped; "
            "lower the learning rate, or check the images."
        )


def gradient_scaler(fabric: Fabric) -> torch.amp.GradScaler | None:
    """What lifts gradients into the range of 16-bit floats; None in other precisions."""
    return getattr(fabric.strategy.precision, "scaler", None)


def scale(fabric: Fabric) -> State:
    """What a checkpoint keeps of the scaler."""
    scaler = gradient_scaler(fabric)
    return {} if scaler is None else {"scaler": scaler.state_dict()}


def keyed(seed: int, step: int) -> int:
    """A seed for one step that shares nothing with its neighbours'."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=7).digest(), "little")


def _note(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in list(values.items())[:6])
