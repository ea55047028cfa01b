"""The one training loop: every network of the package is trained here.

Belongs here: the loop, its resume file and its curves. What is trained (network, batches, loss, validation) comes in
as a :class:`Learner`. Equal parameters, data, seed, device and number of threads give equal weights, whether or not
the training was interrupted: all randomness of an epoch is drawn from (seed, epoch), and after each epoch everything
else is in the resume file.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from atomvision_ml.storage.files import replacing

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


@dataclass(frozen=True)
class Opponent:
    """A further network that is trained beside the learner's own, by a loss and an optimiser of its own (a GAN).

    Attributes:
        network: trained in place; not part of the result.
        loss: scalar loss of the batch that the learner's network has just been trained on.
        learning_rate_factor: on the learning rate of the schedule.
    """

    network: torch.nn.Module
    loss: Callable[[Any, torch.device], torch.Tensor]
    learning_rate_factor: float = 1.0


@runtime_checkable
class AdversarialLearner(Protocol):
    """A learner with opponents; after each step of its own network, every opponent takes one."""

    opponents: Mapping[str, Opponent]


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
class _Player:
    """A network with its optimiser and loss."""

    network: torch.nn.Module
    optimiser: torch.optim.Optimizer
    loss: Callable[[Any, torch.device], torch.Tensor]
    learning_rate_factor: float = 1.0


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
    players = _players(learner, parameters, chosen)
    network = players["network"].network
    state = _resume(scratch / RESUME_FILE, identity, players)
    resumed_after = state.epoch if state.epoch else None
    while state.epoch < parameters.epochs and state.epoch - state.best_epoch <= parameters.patience:
        started = time.perf_counter()
        with seeded(parameters.seed, "epoch", state.epoch):
            losses = _one_epoch(learner, players, parameters, state.epoch, precision, chosen, progress)
        network.eval()
        with torch.inference_mode(), autocast(precision, chosen):
            scores = learner.validate(chosen)
        row = {"epoch": state.epoch, **losses, **scores, "seconds": time.perf_counter() - started}
        _take_in(state, row, learner.monitor, network)
        _store(scratch / RESUME_FILE, identity, state, players)
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
    names = [name for name in (history[0] if history else {}) if name not in ("epoch", "seconds")]
    losses = [name for name in names if name.endswith("_loss")]
    for name, style in zip(losses, itertools.cycle(("-", "--", ":")), strict=False):
        axis.plot(epochs, [row[name] for row in history], style, color="#555555", label=name)
    axis.set(xlabel="epoch", ylabel="loss", title=title)
    scores = axis.twinx()
    for name in names[len(losses) :]:
        scores.plot(epochs, [row[name] for row in history], marker=".", label=name)
    scores.set_ylabel("validation")
    handles = axis.get_legend_handles_labels(), scores.get_legend_handles_labels()
    scores.legend(handles[0][0] + handles[1][0], handles[0][1] + handles[1][1], loc="center right", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _players(learner: Learner, parameters: TrainingParameters, device: torch.device) -> dict[str, _Player]:
    """The learner's own network first, as ``network``, then its opponents by name; each with an optimiser."""
    import torch

    opponents = learner.opponents if isinstance(learner, AdversarialLearner) else {}
    players = {}
    for name, opponent in {"network": Opponent(learner.network, learner.loss), **opponents}.items():
        network = opponent.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay
        )
        players[name] = _Player(network, optimiser, opponent.loss, opponent.learning_rate_factor)
    return players


def _one_epoch(
    learner: Learner,
    players: Mapping[str, _Player],
    parameters: TrainingParameters,
    epoch: int,
    precision: str,
    device: torch.device,
    progress: Progress | None,
) -> dict[str, float]:
    """One step of each player for each batch; their mean losses, ``train_loss`` and ``<opponent>_loss``."""
    for player in players.values():
        player.network.train()
    per_epoch = learner.batches_per_epoch()
    steps = per_epoch * parameters.epochs
    totals = dict.fromkeys(players, 0.0)
    for number, batch in enumerate(learner.batches(epoch)):
        step = epoch * per_epoch + number
        rate = learning_rate(step, steps, parameters)
        for name, player in players.items():
            value = _step(player, batch, rate, precision, device)
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} in epoch {epoch + 1}, batch {number + 1}: lower the rate"
                )
            totals[name] += value
        if progress is not None:
            progress(step + 1, steps)
    named = {"train_loss" if name == "network" else f"{name}_loss": total for name, total in totals.items()}
    return {name: total / per_epoch for name, total in named.items()}


def _step(player: _Player, batch: Any, rate: float, precision: str, device: torch.device) -> float:
    """One step of one optimiser, unless the loss is not finite; returns the loss."""
    for group in player.optimiser.param_groups:
        group["lr"] = rate * player.learning_rate_factor
    with autocast(precision, device):
        loss = player.loss(batch, device)
    value = float(loss.detach())
    if math.isfinite(value):
        player.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        player.optimiser.step()
    return value


def _take_in(state: _State, row: dict[str, float], monitor: str, network: torch.nn.Module) -> None:
    """Append an epoch's row and keep its weights if they are the best so far."""
    is_best = state.best_epoch < 0 or row[monitor] > state.history[state.best_epoch][monitor]
    state.history.append(row)
    if is_best:
        state.best_epoch = state.epoch
        state.best_weights = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
    state.epoch += 1


def _store(path: Path, identity: str, state: _State, players: Mapping[str, _Player]) -> None:
    """Write the resume file beside, then put it in place: a crash leaves the former one."""
    from safetensors.torch import save_file

    tensors = {f"best.{key}": value for key, value in state.best_weights.items()}
    for name, player in players.items():
        tensors |= {f"{name}.{key}": value.detach().cpu() for key, value in player.network.state_dict().items()}
        for index, values in player.optimiser.state_dict()["state"].items():
            tensors |= {f"{name} optimiser.{index}.{key}": value.detach().cpu() for key, value in values.items()}
    about = {"epoch": state.epoch, "best_epoch": state.best_epoch, "history": state.history}
    with replacing(path) as aside:
        save_file(
            {key: value.contiguous().clone() for key, value in tensors.items()},
            aside,
            metadata={"identity": identity, "state": json.dumps(about)},
        )


def _resume(path: Path, identity: str, players: Mapping[str, _Player]) -> _State:
    """The state in the resume file, loaded into networks and optimisers; a fresh one if there is none that fits."""
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
    for name, player in players.items():
        player.network.load_state_dict(_part(tensors, f"{name}."))
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in _part(tensors, f"{name} optimiser.").items():
            index, _, moment = key.partition(".")
            moments.setdefault(int(index), {})[moment] = value
        groups = player.optimiser.state_dict()["param_groups"]
        player.optimiser.load_state_dict({"state": moments, "param_groups": groups})
    stored = json.loads(about["state"])
    log.info("going on after epoch %d", stored["epoch"])
    return _State(stored["epoch"], stored["best_epoch"], _part(tensors, "best."), stored["history"])


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _in_words(row: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in row.items() if key != "epoch")
