"""The one training loop: every network of the package is trained here.

Belongs here: the loop, its resume file and its curves. What is trained (network, batches, loss, validation) comes in
as a :class:`Learner`. Equal parameters, data, seed, device and number of threads give equal weights, whether or not
the training was interrupted: all randomness of an epoch is drawn from (seed, epoch), and after each epoch everything
else is in the resume file.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Progress = Callable[[int, "int | None"], None]
"""Called with (done, total) batches."""

RESUME_FILE = "training.safetensors"


class TrainingParameters(BaseModel):
    """What every training has; flat and frozen, a base for the parameters of each network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=10, ge=1, description="Most epochs.")
    batch_size: int = Field(default=8, ge=1, description="Crops in a batch.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Highest learning rate (AdamW, cosine to zero).")
    warmup_fraction: float = Field(default=0.05, ge=0, le=0.5, description="Share of the steps with a linear rise.")
    weight_decay: float = Field(default=1e-2, ge=0, description="AdamW's decoupled weight decay.")
    patience: int = Field(default=5, ge=1, description="Stop after so many epochs without a better validation score.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="bf16 autocast; auto: where the device computes in bf16 natively."
    )
    seed: int = Field(default=0, ge=0, description="Seed of initial weights, order and augmentation.")


class Learner(Protocol):
    """What is trained. Batches of an epoch must depend on nothing but the epoch (and the learner's own seed)."""

    network: torch.nn.Module
    monitor: str

    def batches_per_epoch(self) -> int:
        """Number of training batches in each epoch."""
        ...

    def batches(self, epoch: int) -> Iterator[Any]:
        """The training batches of an epoch."""
        ...

    def loss(self, batch: Any, device: torch.device) -> torch.Tensor:
        """Scalar loss of a batch, to be minimised."""
        ...

    def validate(self, device: torch.device) -> dict[str, float]:
        """Scores on the validation split; the one named ``monitor`` decides, higher is better."""
        ...


@dataclass
class TrainingResult:
    """What a training yields: the best epoch's weights (on the CPU), one row per epoch, and how it was computed."""

    weights: dict[str, torch.Tensor]
    history: list[dict[str, float]]
    best_epoch: int
    device: str
    precision: str
    resumed_after_epoch: int | None = None

    @property
    def best(self) -> dict[str, float]:
        """The best epoch's row."""
        return self.history[self.best_epoch]

    @property
    def seconds(self) -> float:
        """Time spent in all epochs, over all interruptions."""
        return sum(row["seconds"] for row in self.history)


@dataclass
class _State:
    """Everything that an epoch hands to the next one."""

    epoch: int = 0
    best_epoch: int = -1
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def resolve_device(device: str) -> torch.device:
    """``auto`` is the CUDA device if there is one, else the CPU.

    Raises:
        ValueError: the device is unknown or not present.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:<n>") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} is asked for, but torch sees no CUDA device; use auto or cpu")
    return chosen


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` is bf16 where the device has instructions for it; elsewhere it is emulated and far slower."""
    import torch

    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    has_bf16 = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return "bf16" if has_bf16 is not None and has_bf16() else "fp32"


def autocast(precision: str, device: torch.device) -> Any:
    """Context in which a network computes at that precision."""
    import torch

    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def seeded(*words: object) -> Iterator[None]:
    """Torch's random numbers from these words inside the block; the caller's generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_seed(*words))
        yield


def stable_seed(*words: object) -> int:
    """A 63-bit seed from the words' text, the same in every process and on every machine."""
    digest = hashlib.sha256("\x1f".join(str(word) for word in words).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def train(
    learner: Learner,
    parameters: TrainingParameters,
    *,
    scratch: Path,
    fingerprint: str = "",
    device: str = "auto",
    progress: Progress | None = None,
) -> TrainingResult:
    """Train until the epochs are over or the validation score no longer rises; go on where a former call stopped.

    Args:
        learner: network, batches, loss and validation. Its network is trained in place.
        parameters: of the training.
        scratch: folder of the resume file; give the same one to go on after an interruption.
        fingerprint: identity of data and parameters; a resume file with another one is not used.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        progress: called with (batches done, batches in all).

    Returns:
        The weights of the epoch with the best validation score, and the history.

    Raises:
        ValueError: no training batches, or an unknown device.
        FloatingPointError: the loss is not finite.
    """
    import torch

    chosen = resolve_device(device)
    precision = resolve_precision(parameters.precision, chosen)
    n_batches = learner.batches_per_epoch()
    if n_batches < 1:
        raise ValueError("nothing to train on: an epoch has no batches")
    identity = f"{fingerprint}|{parameters.model_dump_json()}|{chosen.type}|{precision}"
    scratch.mkdir(parents=True, exist_ok=True)
    network = learner.network.to(chosen, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay
    )
    state = _resume(scratch / RESUME_FILE, identity, network, optimiser)
    resumed_after = state.epoch if state.epoch else None
    while state.epoch < parameters.epochs and state.epoch - state.best_epoch <= parameters.patience:
        started = time.perf_counter()
        with seeded(parameters.seed, "epoch", state.epoch):
            loss = _one_epoch(learner, optimiser, parameters, state.epoch, precision, chosen, progress)
        network.eval()
        with torch.inference_mode(), autocast(precision, chosen):
            scores = learner.validate(chosen)
        row = {"epoch": state.epoch, "train_loss": loss, **scores, "seconds": time.perf_counter() - started}
        _take_in(state, row, learner.monitor, network)
        _store(scratch / RESUME_FILE, identity, state, network, optimiser)
        log.info("epoch %d/%d: %s", state.epoch, parameters.epochs, _in_words(row))
    return TrainingResult(
        state.best_weights, state.history, state.best_epoch, str(chosen), precision, resumed_after_epoch=resumed_after
    )


def learning_rate(step: int, steps: int, parameters: TrainingParameters) -> float:
    """Linear rise, then half a cosine to zero; a function of the step alone, so that nothing of it must be stored."""
    warmup = max(1, round(parameters.warmup_fraction * steps))
    if step < warmup:
        return parameters.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return parameters.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def curves_picture(history: Sequence[dict[str, float]], title: str) -> bytes:
    """The training curves as PNG: loss on the left axis, validation scores on the right one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=110, layout="constrained")
    axis = figure.subplots()
    epochs = [row["epoch"] + 1 for row in history]
    axis.plot(epochs, [row["train_loss"] for row in history], color="#555555", label="train_loss")
    axis.set(xlabel="epoch", ylabel="loss", title=title)
    scores = axis.twinx()
    names = [name for name in (history[0] if history else {}) if name not in ("epoch", "train_loss", "seconds")]
    for name in names:
        scores.plot(epochs, [row[name] for row in history], marker=".", label=name)
    scores.set_ylabel("validation")
    handles = axis.get_legend_handles_labels(), scores.get_legend_handles_labels()
    scores.legend(handles[0][0] + handles[1][0], handles[0][1] + handles[1][1], loc="center right", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _one_epoch(
    learner: Learner,
    optimiser: torch.optim.Optimizer,
    parameters: TrainingParameters,
    epoch: int,
    precision: str,
    device: torch.device,
    progress: Progress | None,
) -> float:
    learner.network.train()
    per_epoch = learner.batches_per_epoch()
    steps = per_epoch * parameters.epochs
    total = 0.0
    for number, batch in enumerate(learner.batches(epoch)):
        step = epoch * per_epoch + number
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, parameters)
        with autocast(precision, device):
            loss = learner.loss(batch, device)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} in epoch {epoch + 1}, batch {number + 1}: lower the rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += value
        if progress is not None:
            progress(step + 1, steps)
    return total / per_epoch


def _take_in(state: _State, row: dict[str, float], monitor: str, network: torch.nn.Module) -> None:
    """Append an epoch's row and keep its weights if they are the best so far."""
    is_best = state.best_epoch < 0 or row[monitor] > state.history[state.best_epoch][monitor]
    state.history.append(row)
    if is_best:
        state.best_epoch = state.epoch
        state.best_weights = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
    state.epoch += 1


def _store(
    path: Path, identity: str, state: _State, network: torch.nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Write the resume file beside, then put it in place: a crash leaves the former one."""
    from safetensors.torch import save_file

    tensors = {f"best.{key}": value for key, value in state.best_weights.items()}
    tensors |= {f"network.{key}": value.detach().cpu() for key, value in network.state_dict().items()}
    for index, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value.detach().cpu() for key, value in values.items()}
    about = {"epoch": state.epoch, "best_epoch": state.best_epoch, "history": state.history}
    beside = path.with_suffix(".part")
    save_file(
        {key: value.contiguous().clone() for key, value in tensors.items()},
        beside,
        metadata={"identity": identity, "state": json.dumps(about)},
    )
    os.replace(beside, path)


def _resume(path: Path, identity: str, network: torch.nn.Module, optimiser: torch.optim.Optimizer) -> _State:
    """The state in the resume file, loaded into network and optimiser; a fresh one if there is none that fits."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return _State()
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("identity") != identity:
                log.info("%s is of another training; starting anew", path)
                return _State()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        log.warning("%s cannot be read (%s); starting anew", path, error)
        return _State()
    network.load_state_dict(_part(tensors, "network."))
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in _part(tensors, "optimiser.").items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    stored = json.loads(about["state"])
    log.info("going on after epoch %d", stored["epoch"])
    return _State(stored["epoch"], stored["best_epoch"], _part(tensors, "best."), stored["history"])


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _in_words(row: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "epoch")
