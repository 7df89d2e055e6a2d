from __future__ import annotations

import pytest
import torch

from cnn_core.classification.architectures.digit_cnn import DigitCNN, DigitCNNParams


def network(
    shape: tuple[int, int, int] = (1, 28, 28),
    *,
    width: int = 4,
    depth: int = 3,
    num_classes: int = 10,
    **dropped: float,
) -> DigitCNN:
    torch.manual_seed(0)
    dropped = {"channel_dropout": 0.1, "dropout": 0.3, **dropped}
    return DigitCNN(params=DigitCNNParams(width=width, depth=depth, **dropped), num_classes=num_classes, shape=shape)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28), (1, 32, 20)])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_logits_have_a_row_an_image_and_a_column_a_class(shape: tuple[int, int, int], depth: int):
    logits = network(shape, depth=depth, num_classes=7)(torch.rand(5, *shape))
    assert logits.shape == (5, 7)
    assert logits.isfinite().all()


def test_width_doubles_block_by_block():
    convolutions = [m for m in network(width=4).modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [
        (1, 4),
        (4, 4),
        (4, 8),
        (8, 8),
        (8, 16),
        (16, 16),
    ]


def test_channel_dropout_drops_whole_maps():
    block = network(width=32, depth=1, channel_dropout=0.5).blocks[0].train()
    maps = block(torch.rand(8, 1, 28, 28))
    dropped = (maps == 0).flatten(2).all(2).float().mean()
    assert 0.3 < dropped < 0.7


def test_each_image_is_read_alone_when_not_training():
    model = network().eval()
    images = torch.rand(6, 1, 28, 28)
    with torch.no_grad():
        assert torch.allclose(model(images)[2:3], model(images[2:3]), atol=1e-5)
        assert torch.equal(model(images), model(images))


def test_dropout_acts_in_training_only():
    model = network().train()
    images = torch.rand(6, 1, 28, 28)
    assert not torch.equal(model(images), model(images))


def test_every_parameter_gets_a_gradient():
    model = network()
    torch.nn.functional.cross_entropy(model(torch.rand(4, 1, 28, 28)), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_it_learns_to_tell_two_images_apart():
    model = network(channel_dropout=0.0, dropout=0.0, num_classes=2).train()
    images = torch.rand(2, 1, 28, 28)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def test_an_image_too_small_for_the_depth_is_refused():
    with pytest.raises(ValueError, match="depth 5"):
        network(depth=5)


@pytest.mark.parametrize(("key", "value"), [("width", 0), ("depth", 0), ("dropout", 1.0), ("channel_dropout", -0.1)])
def test_a_size_out_of_bounds_is_refused(key: str, value: float):
    good = {"width": 4, "depth": 2, "channel_dropout": 0.0, "dropout": 0.0}
    with pytest.raises(ValueError, match=key):
        DigitCNNParams(**{**good, key: value})
