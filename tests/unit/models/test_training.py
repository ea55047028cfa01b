import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from atomvision_ml.models.training import (
    RESUME_FILE,
    TrainingParameters,
    curves_picture,
    learning_rate,
    resolve_device,
    seeded,
    stable_seed,
    train,
)

LEARNER = """
import sys, time
from pathlib import Path
import numpy as np
import torch
from atomvision_ml.models.training import Opponent, TrainingParameters, seeded, train

torch.set_num_threads(1)


class Line:
    monitor = "val_r"

    def __init__(self, pause=0.0):
        self.pause = pause
        with seeded(1):
            self.network = torch.nn.Sequential(
                torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Dropout(0.3),
                torch.nn.Conv2d(4, 1, 1),
            )

    def batches_per_epoch(self):
        return 5

    def batches(self, epoch):
        random = np.random.default_rng(epoch)
        for _ in range(5):
            time.sleep(self.pause)
            x = random.normal(size=(4, 1, 8, 8)).astype(np.float32)
            yield x, 0.5 * x + 1

    def loss(self, batch, device):
        x, y = (torch.from_numpy(part).to(device) for part in batch)
        return ((self.network(x) - y) ** 2).mean()

    def validate(self, device):
        x = np.random.default_rng(99).normal(size=(8, 1, 8, 8)).astype(np.float32)
        y = self.network(torch.from_numpy(x).to(device)).cpu().numpy()
        return {"val_r": -float(((y - 0.5 * x - 1) ** 2).mean())}


class Duel(Line):
    def __init__(self, pause=0.0):
        super().__init__(pause)
        with seeded(2):
            judge = torch.nn.Conv2d(1, 1, 3)
        self.opponents = {"judge": Opponent(judge, self.judge_loss, learning_rate_factor=0.5)}

    def loss(self, batch, device):
        x, y = (torch.from_numpy(part).to(device) for part in batch)
        self.fake = self.network(x)
        return ((self.fake - y) ** 2).mean() - 0.1 * self.opponents["judge"].network(self.fake).tanh().mean()

    def judge_loss(self, batch, device):
        judge = self.opponents["judge"].network
        return (judge(self.fake.detach()).tanh() - judge(torch.from_numpy(batch[1]).to(device)).tanh()).mean()


PARAMETERS = TrainingParameters(epochs=6, learning_rate=0.01, patience=6)
"""

CHILD = LEARNER + "\ntrain(Line(pause=0.1), PARAMETERS, scratch=Path(sys.argv[1]), device='cpu')\n"


@pytest.fixture(scope="module")
def line():
    names: dict = {}
    exec(LEARNER, names)
    return names["Line"], names["PARAMETERS"]


def rows(result):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in result.history]


def test_killed_and_resumed_equals_uninterrupted(tmp_path, line):
    make, parameters = line
    whole = train(make(), parameters, scratch=tmp_path / "whole", device="cpu")
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "cut")])
    resume = tmp_path / "cut" / RESUME_FILE
    deadline = time.monotonic() + 60
    while not resume.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    resumed = train(make(), parameters, scratch=tmp_path / "cut", device="cpu")
    assert resumed.resumed_after_epoch is not None
    assert 1 <= resumed.resumed_after_epoch < parameters.epochs
    assert rows(resumed) == rows(whole)
    for key, value in whole.weights.items():
        assert np.array_equal(value.numpy(), resumed.weights[key].numpy())


def test_opponents_are_trained_and_resumed_too(tmp_path):
    names: dict = {}
    exec(LEARNER, names)
    make, parameters = names["Duel"], names["PARAMETERS"]
    whole = make()
    start = whole.opponents["judge"].network.weight.detach().clone()
    uncut = train(whole, parameters, scratch=tmp_path / "whole", device="cpu")
    assert not np.array_equal(start.numpy(), whole.opponents["judge"].network.weight.detach().numpy())
    assert all(np.isfinite(row["judge_loss"]) for row in uncut.history)
    cut = make()
    batches = cut.batches

    def interrupted(epoch):
        if epoch == 3:
            raise KeyboardInterrupt
        return batches(epoch)

    cut.batches = interrupted
    with pytest.raises(KeyboardInterrupt):
        train(cut, parameters, scratch=tmp_path / "cut", device="cpu")
    fresh = make()
    resumed = train(fresh, parameters, scratch=tmp_path / "cut", device="cpu")
    assert resumed.resumed_after_epoch == 3
    assert rows(resumed) == rows(uncut)
    for key, value in whole.opponents["judge"].network.state_dict().items():
        assert np.array_equal(value.numpy(), fresh.opponents["judge"].network.state_dict()[key].numpy())


def test_finished_training_is_not_repeated(tmp_path, line):
    make, parameters = line
    first = train(make(), parameters, scratch=tmp_path, device="cpu")
    calls = []
    again = train(make(), parameters, scratch=tmp_path, device="cpu", progress=lambda *args: calls.append(args))
    assert not calls
    assert rows(first) == rows(again)


def test_other_data_or_parameters_start_anew(tmp_path, line):
    make, parameters = line
    train(make(), parameters, scratch=tmp_path, device="cpu", fingerprint="a")
    other = train(make(), parameters, scratch=tmp_path, device="cpu", fingerprint="b")
    assert other.resumed_after_epoch is None


def test_damaged_resume_file_starts_anew(tmp_path, line):
    make, parameters = line
    (tmp_path / RESUME_FILE).write_bytes(b"half a file")
    result = train(make(), parameters, scratch=tmp_path, device="cpu")
    assert result.resumed_after_epoch is None
    assert len(result.history) == parameters.epochs


def test_early_stopping_returns_the_best_epoch(tmp_path, line):
    make, _ = line
    learner = make()
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.1])
    seen = []

    def validate(device):
        seen.append({key: value.clone() for key, value in learner.network.state_dict().items()})
        return {"val_r": next(scores)}

    learner.validate = validate
    result = train(learner, TrainingParameters(epochs=6, patience=2), scratch=tmp_path, device="cpu")
    assert (result.best_epoch, len(result.history)) == (1, 4)
    assert all(np.array_equal(result.weights[key].numpy(), seen[1][key].numpy()) for key in seen[1])


def test_it_learns_and_tells_its_progress(tmp_path, line):
    make, parameters = line
    calls = []
    result = train(make(), parameters, scratch=tmp_path, device="cpu", progress=lambda *args: calls.append(args))
    assert result.history[-1]["train_loss"] < 0.7 * result.history[0]["train_loss"]
    assert calls[0] == (1, 30)
    assert calls[-1] == (30, 30)
    assert curves_picture(result.history, "line").startswith(b"\x89PNG")


def test_not_a_number_is_an_error(tmp_path, line):
    make, parameters = line
    learner = make()
    learner.loss = lambda batch, device: next(learner.network.parameters()).sum() * float("nan")
    with pytest.raises(FloatingPointError, match="epoch 1, batch 1"):
        train(learner, parameters, scratch=tmp_path, device="cpu")


def test_nothing_to_train_on(tmp_path, line):
    make, parameters = line
    learner = make()
    learner.batches_per_epoch = lambda: 0
    with pytest.raises(ValueError, match="nothing to train on"):
        train(learner, parameters, scratch=tmp_path, device="cpu")


def test_learning_rate_rises_then_falls_to_zero():
    parameters = TrainingParameters(learning_rate=0.1, warmup_fraction=0.1)
    rates = [learning_rate(step, 100, parameters) for step in range(100)]
    assert max(rates) == pytest.approx(0.1)
    assert np.argmax(rates) in (9, 10)
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] < 1e-4


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="unknown device"):
        resolve_device("abacus")


def test_seeds_are_stable_and_leave_the_caller_alone():
    import torch

    assert stable_seed("a", 1) == stable_seed("a", 1) != stable_seed("a", 2)
    assert 0 <= stable_seed("x") < 2**63
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded("inside"):
        torch.rand(10)
    assert torch.equal(torch.rand(2), expected)
