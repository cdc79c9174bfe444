"""Defaults by kind of data: what was left open is filled in, what was given stays."""

from dataclasses import replace

import pytest

from ann2snn_distill.config import ConvertSettings, FitSettings
from ann2snn_distill.neurons.equations import IF, LIF
from ann2snn_distill.pipeline.students import learns_from_random, neuron_model
from ann2snn_distill.recipes import (
    FEW_LARGE,
    FEW_SMALL,
    FEW_TINY,
    LARGE,
    SMALL,
    recipe_for,
    resolved_clip,
    resolved_equalize,
    resolved_fit,
    resolved_guidance,
    resolved_init,
    resolved_neuron,
    resolved_timesteps,
)


def test_the_kind_of_data_is_a_matter_of_side_and_number():
    assert recipe_for(img_size=224, images=10_000) is LARGE
    assert recipe_for(img_size=65, images=9_999) is FEW_LARGE
    assert recipe_for(img_size=32, images=50_000) is SMALL
    assert recipe_for(img_size=17, images=9_999) is FEW_SMALL
    assert recipe_for(img_size=16, images=9_999) is FEW_TINY
    assert recipe_for(img_size=16, images=10_000) is SMALL


def test_a_default_batch_is_not_larger_than_the_data():
    assert recipe_for(img_size=16, images=32) is FEW_TINY
    assert recipe_for(img_size=16, images=20) == replace(FEW_TINY, batch_size=20)
    assert recipe_for(img_size=224, images=63).batch_size == 63


RECIPES = {"few tiny": FEW_TINY, "few": FEW_SMALL, "small": SMALL, "few large": FEW_LARGE, "large": LARGE}
OF_SMALL_IMAGES = (FEW_SMALL, SMALL)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("opt", ["sgd", "adamw"])
def test_the_learning_rate_follows_the_images_a_step_and_the_start(recipe, opt):
    peak = recipe.sgd_lr if opt == "sgd" else recipe.adamw_lr
    for init, share in (("scratch", 1.0), ("teacher", recipe.copied_lr), ("s.safetensors", recipe.copied_lr)):
        settings = ConvertSettings(model="resnet18", opt=opt, init=init, batch_size=64, grad_accum_steps=3)
        resolved = resolved_fit(settings, recipe, img_size=32, cuda=False)
        assert resolved["lr"] == pytest.approx(share * peak * 64 * 3 / 128)
    teacher = resolved_fit(FitSettings(opt=opt, batch_size=128), recipe, img_size=32, cuda=False)
    assert teacher["lr"] == pytest.approx(peak)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_student_from_random_weights_of_small_images_trains_longer_and_of_many_decays_less(recipe):
    def resolved(init, **given):
        settings = ConvertSettings(model="resnet18", init=init, **given)
        return resolved_fit(settings, recipe, img_size=32, cuda=False)

    copied, random = resolved("teacher"), resolved("scratch")
    teacher = resolved_fit(FitSettings(), recipe, img_size=32, cuda=False)
    assert copied["epochs"] == teacher["epochs"] == recipe.epochs
    assert copied["weight_decay"] == teacher["weight_decay"] == recipe.sgd_decay
    epochs = 600 if recipe in OF_SMALL_IMAGES else recipe.epochs
    decay = 2.5e-4 if recipe is SMALL else recipe.sgd_decay
    assert (random["epochs"], random["weight_decay"]) == (epochs, decay)
    assert random["warmup_epochs"] == pytest.approx(0.05 * epochs)
    short = resolved("scratch", epochs=40)
    assert "epochs" not in short
    assert short["warmup_epochs"] == pytest.approx(2)
    assert resolved("scratch", opt="adamw")["weight_decay"] == recipe.adamw_decay


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_guidance_alone_is_for_small_images_from_random_weights_over_many_epochs(recipe):
    def alpha(**given):
        return resolved_guidance(ConvertSettings(model="resnet18", **given), recipe)

    for given in ({}, {"epochs": 80}):
        assert alpha(init="scratch", **given) == {"alpha": 1.0 if recipe in OF_SMALL_IMAGES else 0.5}
    assert alpha(init="scratch", epochs=79) == {"alpha": 0.5}
    assert alpha(init="teacher") == alpha(init="student.safetensors") == {"alpha": 0.5}
    assert alpha(init="scratch", alpha=0.0) == alpha(init="scratch", method="rate") == {}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_two_timesteps_of_small_images_are_trained_with_four_from_random_weights_over_many_epochs(recipe):
    def more(timesteps, **given):
        given = {"init": "scratch", **given}
        return resolved_timesteps(ConvertSettings(model="resnet18", timesteps=timesteps, **given), recipe)

    expected = {"train_timesteps": 4} if recipe in OF_SMALL_IMAGES else {}
    assert more(2) == more(2, epochs=80) == expected
    assert more(1) == more(3) == more(4) == more(6) == {}
    assert more(2, epochs=79) == more(2, init="teacher") == more(2, method="rate") == {}
    assert more(2, train_timesteps=2) == more(2, train_timesteps=6) == {}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_mixup_beside_cutmix_is_for_guided_students_of_small_images_from_random_weights(recipe):
    def mixup(**given):
        settings = ConvertSettings(model="resnet18", **given)
        return resolved_fit(settings, recipe, img_size=32, cuda=False)["mixup"]

    assert mixup(init="scratch") == mixup(init="scratch", epochs=80) == (1.0 if recipe in OF_SMALL_IMAGES else 0.0)
    assert mixup(init="scratch", epochs=79) == 0.0
    assert mixup(init="teacher") == mixup(init="scratch", method="rate") == mixup(init="scratch", cutmix=0.0) == 0.0
    assert resolved_fit(FitSettings(), recipe, img_size=32, cuda=False)["mixup"] == 0.0


def test_what_was_given_stays():
    settings = ConvertSettings(
        model="resnet18", lr=0.3, mixup=0.2, cutmix=0.0, cutout=4, aa="none", epochs=7, init="scratch"
    )
    resolved = resolved_fit(settings, SMALL, img_size=32, cuda=True)
    assert not {"lr", "mixup", "cutmix", "cutout", "aa", "epochs"} & resolved.keys()
    assert resolved["amp"] is resolved["torchcompile"] is resolved["cuda_graph"] is True
    for same in (True, False):
        assert resolved_init(settings, SMALL, same_network=same, random_fits=never_asked) == {}


def test_few_large_images_are_mixed_half_of_the_time():
    half = resolved_fit(FitSettings(), FEW_LARGE, img_size=224, cuda=False)
    assert (half["cutmix"], half["mixup_prob"]) == (1.0, 0.5)
    assert "mixup_prob" not in resolved_fit(FitSettings(mixup_prob=1.0), FEW_LARGE, img_size=224, cuda=False)
    assert resolved_fit(FitSettings(cutmix=0.0), FEW_LARGE, img_size=224, cuda=False)["mixup_prob"] == 1.0
    for recipe in (FEW_TINY, FEW_SMALL, SMALL, LARGE):
        assert resolved_fit(FitSettings(), recipe, img_size=32, cuda=False)["mixup_prob"] == 1.0


def test_gradients_are_clipped_under_full_coverage_or_where_a_way_is_named():
    full = ConvertSettings(model="resnet18", coverage="full")
    assert resolved_clip(full) == {"clip_grad": 0.05, "clip_mode": "agc"}
    assert resolved_clip(full.model_copy(update={"clip_mode": "norm"})) == {"clip_grad": 1.0, "clip_mode": "norm"}
    assert resolved_clip(full.model_copy(update={"clip_grad": 0.0})) == {}
    assert resolved_clip(ConvertSettings(model="resnet18")) == {}
    named = ConvertSettings(model="resnet18", clip_mode="agc")  # who names a way to clip wants it
    assert resolved_clip(named) == {"clip_grad": 0.05, "clip_mode": "agc"}


def test_a_depthwise_teachers_channels_are_equalised():
    copied = ConvertSettings(model="resnet18", init="teacher")
    assert resolved_equalize(copied, depthwise=True) == {"equalize": True}
    assert resolved_equalize(copied, depthwise=False) == {"equalize": False}
    assert resolved_equalize(copied.model_copy(update={"init": "scratch"}), depthwise=True) == {"equalize": False}
    assert resolved_equalize(copied.model_copy(update={"equalize": False}), depthwise=True) == {}


def test_a_student_starts_from_weights_that_fit_it():
    settings = ConvertSettings(model="resnet18")
    for recipe in (FEW_TINY, FEW_LARGE, LARGE):
        assert resolved_init(settings, recipe, same_network=True, random_fits=never_asked) == {"init": "teacher"}
        assert resolved_init(settings, recipe, same_network=False, random_fits=never_asked) == {"init": "scratch"}


@pytest.mark.parametrize(("recipe", "long"), [(SMALL, 250), (FEW_SMALL, 600)], ids=["many", "few"])
def test_a_long_schedule_of_small_images_starts_from_random_weights_and_a_short_one_from_the_teachers(recipe, long):
    settings = ConvertSettings(model="resnet18")
    starts = {long - 1: "teacher", long: "scratch", None: "scratch"}  # None: the recipe's own epochs
    for epochs, start in starts.items():
        asked = settings.model_copy(update={"epochs": epochs})
        assert resolved_init(asked, recipe, same_network=True, random_fits=lambda: True) == {"init": start}
        assert resolved_init(asked, recipe, same_network=True, random_fits=lambda: False) == {"init": "teacher"}
        assert resolved_init(asked, recipe, same_network=False, random_fits=never_asked) == {"init": "scratch"}


def never_asked():
    raise AssertionError("the network was built for nothing")


@pytest.mark.parametrize(
    ("model", "fits"),
    [("resnet18", True), ("vgg11_bn", True), ("densenet121", True), ("vgg11", False), ("mobilenetv2_035", False),
     ("convnext_atto", False), ("test_vit", False), ("qwen3_vit_88m_enc", False),
     ("nobody", False)],
)  # fmt: skip
def test_random_weights_are_for_convolutions_with_batch_norms(model, fits):
    assert learns_from_random(ConvertSettings(model=model), img_size=32) is fits


@pytest.mark.parametrize(("neuron", "model"), [("lif", LIF._replace(v_init=0.25)), ("if", IF)])
def test_a_neurons_constants_are_those_of_its_equations_but_for_what_lif_starts_with(neuron, model):
    settings = ConvertSettings(model="resnet18", neuron=neuron)
    assert neuron_model(settings.model_copy(update=resolved_neuron(settings))) == model
    wide = ConvertSettings(model="resnet18", neuron=neuron, surrogate_width=2.0)
    assert "surrogate_width" not in resolved_neuron(wide)
