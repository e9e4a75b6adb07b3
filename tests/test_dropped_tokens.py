"""Transformers whose hidden tokens are dropped: against attention that masks these tokens out."""

import json
from functools import partial

import pytest
import torch
from torch import nn
from torchvision import transforms

from patchcert import PlainNetwork, encode
from patchcert.ablations.ablation import Band
from patchcert.engines.plain_copies import PlainCopies
from patchcert.pretrained import from_timm
from patchcert.pretrained.found import Found
from tests.helpers import run_here, succeed
from tests.test_pictures import write_pictures

timm = pytest.importorskip("timm")
from timm.models import vision_transformer as transformers  # noqa: E402

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}


def transformer(kind=transformers.VisionTransformer, **changes):
    """A small one, in whose attention and positions there is something to see."""
    torch.manual_seed(0)
    network = kind(**{**SMALL, **changes})
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.4)
    return network.eval()


def masks(height, width):
    """(B, H, W) bool: bands, windows, nothing hidden, a pixel and a patch hidden, all but a pixel hidden."""
    hidden = torch.ones(8, height, width, dtype=torch.bool)
    hidden[0, :, 3:14] = False
    hidden[1, :, 7:9] = False
    hidden[2, 16:24, :] = False
    hidden[3] = hidden[4] = hidden[5] = hidden[6] = False
    hidden[3, 5:25, 8:30] = True
    hidden[5, 9, 9] = True
    hidden[6, 8:16, 24:] = True
    hidden[7, 12, 12] = False
    return hidden


def kept_tokens(network, hidden):
    """(T,) bool of one picture, patch by patch."""
    embedding = network.patch_embed
    (rows, columns), (height, width) = embedding.dynamic_feat_size(hidden.shape), embedding.patch_size
    places = [(row * height, column * width) for row in range(rows) for column in range(columns)]
    showing = [not hidden[y : y + height, x : x + width].all() for y, x in places]
    return torch.tensor([True] * network.num_prefix_tokens + showing)


def masked_attention(monkeypatch, network, shown, hidden):
    """(1, K): all tokens are computed, and no one looks at those of hidden patches."""
    kept, attend = kept_tokens(network, hidden), nn.functional.scaled_dot_product_attention
    with monkeypatch.context() as patched:
        masked = lambda *tensors, attn_mask=None, **more: attend(*tensors, attn_mask=kept[None], **more)  # noqa: E731
        patched.setattr(nn.functional, "scaled_dot_product_attention", masked)
        features = network.forward_features(shown[None])
    return network.forward_head(features[:, kept])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reg_tokens": 2, "no_embed_class": True},
        {"reg_tokens": 1, "pre_norm": True, "block_fn": transformers.ResPostBlock},
        {"global_pool": "avg", "block_fn": transformers.ParallelScalingBlock},
        {"global_pool": "avg", "class_token": False, "reg_tokens": 2, "img_size": (32, 36)},
        {"global_pool": "avg", "no_embed_class": True, "dynamic_img_size": True},
        {"global_pool": "map", "class_token": False, "init_values": 0.3, "patch_size": (8, 4)},
        {"pos_embed": "none", "qk_norm": True, "img_size": 40, "patch_size": 16},
    ],
    ids=lambda changes: ",".join(changes) or "plain",
)
def test_logits_are_those_of_attention_that_masks_hidden_tokens_out(monkeypatch, changes):
    network = transformer(**changes)
    height, width = network.patch_embed.img_size
    hidden = masks(height, width)
    images = torch.rand(len(hidden), 3, height, width, generator=torch.Generator().manual_seed(1))
    plain = PlainNetwork(network, mean=(0.4, 0.5, 0.6), std=0.3, hidden="drop")
    with torch.no_grad():
        found = plain(images, hidden)
        shown = (images - plain.mean) / plain.std * ~hidden[:, None]  # the mean becomes 0
        expected = torch.cat([masked_attention(monkeypatch, network, *of) for of in zip(shown, hidden, strict=True)])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network(shown[4:5]), found[4:5], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(plain(images), network((images - plain.mean) / plain.std), rtol=1e-4, atol=1e-5)
        assert (found - network(shown)).abs().amax(dim=1)[:3].min() > 1e-3  # painting is another network


def test_another_size_of_pictures_is_taken_where_the_network_takes_it(monkeypatch):
    network = transformer(dynamic_img_size=True, dynamic_img_pad=True)
    hidden = masks(36, 40)
    hidden[:, 32:] = hidden[:, 31:32]
    hidden[0, 32:] = True  # what is padded shows nothing
    shown = torch.rand(len(hidden), 3, 36, 40) * ~hidden[:, None]
    with torch.no_grad():
        found = PlainNetwork(network, hidden="drop")(shown, hidden)
        expected = torch.cat([masked_attention(monkeypatch, network, *of) for of in zip(shown, hidden, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_pictures_alone_are_answered_as_beside_others():
    plain, hidden = PlainNetwork(transformer(global_pool="avg"), hidden="drop"), masks(32, 32)
    images = torch.rand(len(hidden), 3, 32, 32)
    with torch.no_grad():
        alone = torch.cat([plain(images[i : i + 1], hidden[i : i + 1]) for i in range(len(images))])
        torch.testing.assert_close(plain(images, hidden), alone, rtol=1e-4, atol=1e-5)
    assert plain.classes(images) == 3


def test_what_is_hidden_has_no_say_and_gets_no_gradient():
    plain, hidden = PlainNetwork(transformer(), hidden="drop"), masks(32, 32)
    images = torch.rand(len(hidden), 3, 32, 32)
    others = torch.where(hidden[:, None], torch.rand_like(images), images).requires_grad_()
    logits = plain(others, hidden)
    assert logits.equal(plain(images, hidden))
    (gradient,) = torch.autograd.grad(logits.square().sum(), others)
    assert (gradient.abs().amax(dim=1) > 0).equal(~hidden)


def test_tokens_of_hidden_patches_are_not_computed():
    network, seen = transformer(), []
    plain = PlainNetwork(network, hidden="drop")
    network.blocks[0].register_forward_pre_hook(lambda block, given: seen.append(tuple(given[0].shape[:2])))
    plain(torch.rand(8, 3, 32, 32), masks(32, 32))
    assert sorted(seen) == [(1, 2), (1, 5), (1, 13), (1, 16), (2, 9), (2, 17)]


class Own(transformers.VisionTransformer):
    pass


class OwnBlock(transformers.Block):
    pass


class OwnEmbedding(timm.layers.PatchEmbed):
    pass


class Neighbours(transformers.Attention):
    """Attention to which positions matter."""

    def forward(self, x, *arguments, **more):
        return super().forward(x + x.roll(1, dims=1), *arguments, **more)


def with_a_hook():
    network = transformer()
    network.register_forward_pre_hook(lambda network, images: (images[0] - 0.4,))
    return network


@pytest.mark.parametrize(
    ("make", "right"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)).eval(), "the network is a Sequential"),
        (partial(transformer, Own), "the network is a Own"),
        (
            partial(transformer, timm.models.vision_transformer_relpos.VisionTransformerRelPos),
            "VisionTransformerRelPos",
        ),
        (partial(transformer, embed_layer=OwnEmbedding), "this one makes tokens by a OwnEmbedding"),
        (partial(transformer, block_fn=OwnBlock), "this one has blocks of the class OwnBlock"),
        (partial(transformer, attn_layer=Neighbours), "that do not depend on the order of tokens"),
        (with_a_hook, "that do not depend on the order of tokens"),
    ],
)
def test_networks_whose_tokens_are_not_to_be_dropped_are_refused(make, right):
    network = make()
    start = "hidden is 'drop', expected a colour, or a plain VisionTransformer of timm"
    with pytest.raises(ValueError, match=f"^{start}[^\n]*{right}[^\n]*$"):
        PlainNetwork(network, hidden="drop")
    PlainNetwork(network)


def test_pooling_over_nothing_is_refused():
    hidden = torch.ones(2, 32, 32, dtype=torch.bool)
    hidden[0, 3] = False
    with pytest.raises(ValueError, match=r"an image is wholly hidden; this network pools over visible tokens$"):
        PlainNetwork(transformer(global_pool="avg"), hidden="drop")(torch.rand(2, 3, 32, 32), hidden)
    PlainNetwork(transformer(), hidden="drop")(torch.rand(2, 3, 32, 32), hidden)  # the class token is left


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Pictures, and a transformer that timm is said to have pretrained; networks that it is said to have by name."""
    write_pictures(tmp_path / "pets" / "test", ("cat", "dog", "eel"), 2, size=32)
    networks = {"small": transformer, "other": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))}

    def find(name, weights):
        steps = [transforms.Resize((32, 32)), transforms.ToTensor(), transforms.Normalize(0.4, 0.2)]
        return Found(networks[name]().eval(), transforms.Compose(steps), {"name": name, "weights": "its own"})

    monkeypatch.setattr(from_timm, "find", find)
    return tmp_path


PICTURES = ("--dataset", "folder", "--data", "pets", "--all", "--skip", 1)


def test_bands_of_scripts_drop_tokens_and_say_so(folder, capsys):
    asked = ("--model", "timm:small", "--ablation", "band:5", "--top_one", *PICTURES, "--hidden", "drop")
    succeed("certify.py", *asked, "--save_votes", "votes.npz", "--output", "found.json", folder=folder)
    said = capsys.readouterr().out
    assert "hidden pixels 0.4, 0.4, 0.4, tokens of hidden patches dropped\n" in said
    assert "; tokens of hidden patches dropped, not painted" in said
    record = json.loads((folder / "found.json").read_text())
    assert record["config"]["about"]["run"]["network"]["tokens"] == "dropped" and record["config"]["hidden"] == "drop"
    succeed("certify_votes.py", "--votes", "votes.npz", "--top_one", folder=folder)
    assert "; tokens of hidden patches dropped, not painted" in capsys.readouterr().out


def test_a_plain_network_of_the_users_own_drops_its_tokens(folder, let_import, capsys):
    """`network` is what --hidden drop makes of `small`; the scripts keep it, and say so."""
    let_import(
        folder,
        "dropping",
        "from torchvision.transforms import Compose, Resize, ToTensor\n"
        "from patchcert import PlainNetwork\n"
        "from tests.test_dropped_tokens import transformer\n"
        "def network():\n"
        "    plain = PlainNetwork(transformer().eval(), mean=0.4, std=0.2, hidden='drop')\n"
        "    plain.preparation = Compose([Resize((32, 32)), ToTensor()])\n"
        "    return plain\n",
    )
    rows = {}
    for model in (("dropping:network",), ("timm:small", "--hidden", "drop")):
        files = ("--output", "found.json", "--per_image", "rows.csv", "--overwrite")
        succeed("certify.py", "--model", *model, "--ablation", "band:5", "--top_one", *PICTURES, *files, folder=folder)
        assert "; tokens of hidden patches dropped, not painted" in capsys.readouterr().out
        assert json.loads((folder / "found.json").read_text())["config"]["hidden"] == "drop"
        rows[model] = (folder / "rows.csv").read_text()
    assert len(set(rows.values())) == 1
    asked = ("--model", "dropping:network", "--data", "pets", "--size_to_train", 4)
    assert run_here("train_imagenet_windows.py", *asked, folder=folder) == 2
    assert "--model dropping:network: drops hidden tokens; expected a Plain" in capsys.readouterr().err


def test_bands_and_windows_are_certified_by_what_kept_tokens_say(folder, monkeypatch):
    seen = []
    forward = PlainNetwork.forward
    monkeypatch.setattr(PlainNetwork, "forward", lambda self, *of: seen.append(self) or forward(self, *of))
    files = ("--output", "found.json", "--hidden", "drop")
    masked = ("--model", "timm:small", "--ablation", "band:5", "--size_to_certify", 2, *PICTURES, *files)
    succeed("certify_masked.py", *masked, folder=folder)
    windows = ("--model", "timm:small", "--data", "pets", "--all", "--skip", 1, "--per_side", 3, *files)
    (folder / "found.json").unlink()
    succeed("certify_imagenet_windows.py", *windows, "--size_to_certify", 4, folder=folder)
    assert seen and all(plain.drops_tokens for plain in seen)
    assert json.loads((folder / "found.json").read_text())["config"]["about"]["network"]["tokens"] == "dropped"


def test_copies_are_shown_to_kept_tokens():
    plain, ablation = PlainNetwork(transformer(), hidden="drop"), Band(32, 32, 5)
    images, start = torch.rand(3, 3, 32, 32), torch.tensor([0, 9, 30])
    found = PlainCopies(plain, ablation)(encode(images) * ablation.masks(start)[:, None])
    assert found.equal(plain(images, ablation.masks(start) == 0))


def test_other_networks_are_refused_in_one_line(folder, capsys):
    asked = ("--model", "timm:other", "--ablation", "band:5", *PICTURES, "--hidden", "drop")
    assert run_here("certify.py", *asked, folder=folder) == 2
    error = capsys.readouterr().err.strip()
    assert error.endswith(
        "--model timm:other: hidden is 'drop', expected a colour, or a plain VisionTransformer of timm, "
        "the network is a Sequential"
    )


def test_training_is_on_painted_pixels(folder, capsys):
    asked = ("--model", "timm:small", "--data", "pets", "--size_to_train", 4, "--hidden", "drop")
    assert run_here("train_imagenet_windows.py", *asked, folder=folder) == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith("--hidden drop: expected a colour: networks are trained on painted pixels")
    )
