import numpy as np

from atomvision_ml.evaluation.pseudo_centred import head_room, paired, pseudo_centred_features


def test_a_sample_is_drawn_anew_alike_and_holds_every_class(small_set):
    rows = small_set.training_set("lattice").to_dicts()
    evidence, logits, truth = pseudo_centred_features(rows, small_set.open_blob, scenes=10)
    again = pseudo_centred_features(rows, small_set.open_blob, scenes=10)
    assert evidence.shape == (10, 33)
    assert logits.shape == (10, 5)
    assert np.bincount(truth).tolist() == [2] * 5
    assert all(np.array_equal(one, other) for one, other in zip((evidence, logits, truth), again, strict=True))


def test_evidence_that_tells_the_class_is_read():
    truth = np.arange(200) % 5
    evidence = np.random.default_rng(0).normal(size=(200, 33)).astype(np.float32)
    assert head_room(evidence, truth).mean() < 0.5
    evidence[:, :5] += 6 * np.eye(5)[truth]
    assert head_room(evidence, truth).mean() > 0.95


def test_paired_figures():
    one, other = np.array([True] * 90 + [False] * 10), np.array([True] * 80 + [False] * 20)
    said = paired(one, other)
    assert (said["only_this"], said["only_rival"], said["difference"]) == (10, 0, 0.1)
    assert 0.03 < said["low"] < 0.1 < said["high"] < 0.17
