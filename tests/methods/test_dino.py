"""DINO beside the other methods; its loss is tested in tests/losses/test_distillation.py."""

from tests.methods.cases import VIT, VIT_RUN, MethodCase

HEAD = {"prototypes": 256, "hidden_dim": 64, "bottleneck_dim": 32, "momentum": 0.98, "frozen_prototype_epochs": 0}
CASE = MethodCase(
    trained={"loss": {"backbone", "distiller.head"}},
    model=VIT,
    small={"prototypes": 64, "hidden_dim": 32, "bottleneck_dim": 16, "frozen_prototype_epochs": 0},
    run={**VIT_RUN, **{f"method.{key}": value for key, value in HEAD.items()}},
    budget={
        "method.prototypes": 1024,
        "method.hidden_dim": 512,
        "method.bottleneck_dim": 128,
        "method.momentum": 0.98,
        "method.teacher_temperature": 0.03,
        "method.frozen_prototype_epochs": 0,
        "optimizer.lr": 0.48,
        "train.epochs": 8,
    },
    falls={"method.center_momentum": 1.0},  # the loss rises while the centre spreads the targets
)
