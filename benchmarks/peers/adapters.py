"""Each SAM optimizer from PyPI, built and driven as its own documentation says, behind one face."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

Closure = Callable[[], torch.Tensor]


def _plain(params: Iterable[Any], base: Any, **kwargs: Any) -> Any:
    return base(params, **kwargs)


def _step(opt: Any, closure: Closure) -> Any:
    return opt.step(closure)


def _backward_first(opt: Any, closure: Closure) -> Any:
    closure()
    return opt.step(closure)


@dataclass(frozen=True)
class Peer:
    """``make(params, base, rho, **base_kwargs)`` builds it; ``step`` drives one step by a closure.

    ``two_step``: it has ``first_step``/``second_step``. ``plain`` builds the base optimizer alone.
    ``inner``: the attribute with an optimizer that its user made and keeps.
    """

    name: str
    package: str
    make: Callable[..., Any]
    step: Callable[[Any, Closure], Any] = _step
    two_step: bool = False
    note: str = ""
    plain: Callable[..., Any] = _plain
    inner: str = ""

    @property
    def version(self) -> str:
        """Its installed version."""
        return version(self.package)


def _samlib(params: Iterable[Any], base: Any, rho: float, **kwargs: Any) -> Any:
    from samlib import SAM

    return SAM(params, base, rho=rho, **kwargs)


def _pytorch_optimizer(params: Iterable[Any], base: Any, rho: float, **kwargs: Any) -> Any:
    from pytorch_optimizer import SAM

    return SAM(params, base, rho=rho, **kwargs)


def _unifiedsam(params: Iterable[Any], base: Any, rho: float, **kwargs: Any) -> Any:
    from unifiedsam import unifiedSAM

    return unifiedSAM(params, base, rho=rho, lambd=1.0, **kwargs)


def _sam_pytorch(params: Iterable[Any], base: Any, rho: float, **kwargs: Any) -> Any:
    from sam import SAM

    params = list(params)
    return SAM(params, base(params, **kwargs), rho=rho)


def _temperon(params: Iterable[Any], base: Any, rho: float, **kwargs: Any) -> Any:
    from temperon import Temperon

    return Temperon(base(params, **kwargs), total_steps=10**6, tail_frac=1.0, rho=rho)


def _torchzero(params: Iterable[Any], base: Any, rho: float, **kwargs: Any) -> Any:
    import torchzero as tz

    return _torchzero_plain(params, base, tz.m.SAM(rho), **kwargs)


def _torchzero_plain(params: Iterable[Any], base: Any, *first: Any, **kwargs: Any) -> Any:
    import torchzero as tz

    momentum = kwargs.get("momentum", 0.0)
    inner = [tz.m.Adam()] if base is torch.optim.Adam else []
    inner += [tz.m.HeavyBall(momentum)] if momentum else []
    return tz.Optimizer(params, *first, *inner, tz.m.LR(kwargs.get("lr", 1e-3)))


def _torchzero_step(opt: Any, closure: Closure) -> Any:
    def both(backward: bool = True) -> torch.Tensor:
        return closure()

    return opt.step(both)


def _mosaicml(params: Iterable[Any], base: Any, rho: float, **kwargs: Any) -> Any:
    return _composer_sam()(base(params, **kwargs), rho=rho)


def _composer_sam() -> Any:
    """``SAMOptimizer`` from the installed wheel, with empty stand-ins for the trainer."""
    if "composer_sam" not in sys.modules:
        root = importlib.util.find_spec("composer")
        assert root is not None
        assert root.submodule_search_locations
        path = f"{root.submodule_search_locations[0]}/algorithms/sam/sam.py"
        stand_ins = {
            "composer.core": ("Algorithm", "Event", "State"),
            "composer.loggers": ("Logger",),
            "composer.trainer._scaler": ("ClosureGradScaler",),
            "composer.utils": ("ensure_tuple",),
        }
        for name in ("composer", "composer.trainer", *stand_ins):
            module = types.ModuleType(name)
            for attribute in stand_ins.get(name, ()):
                setattr(module, attribute, type(attribute, (), {}))
            sys.modules[name] = module
        spec = importlib.util.spec_from_file_location("composer_sam", path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["composer_sam"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["composer_sam"])
    return sys.modules["composer_sam"].SAMOptimizer


def _mosaicml_step(opt: Any, closure: Closure) -> Any:
    return opt.step(lambda **_: closure())


KEEPS = "wraps an optimizer that the user keeps"
PEERS = [
    Peer("samlib", "samlib", _samlib, two_step=True),
    Peer("pytorch_optimizer", "pytorch_optimizer", _pytorch_optimizer, _backward_first, True),
    Peer("unifiedsam", "unifiedsam", _unifiedsam, _backward_first, True, "lambd=1, which is SAM"),
    Peer("sam-pytorch", "sam-pytorch", _sam_pytorch, note=KEEPS, inner="optim"),
    Peer("temperon", "temperon", _temperon, note=f"tail_frac=1; {KEEPS}", inner="optimizer"),
    Peer(
        "torchzero",
        "torchzero",
        _torchzero,
        _torchzero_step,
        note="measured with its own SGD, momentum and Adam",
        plain=_torchzero_plain,
    ),
    Peer(
        "mosaicml",
        "mosaicml",
        _mosaicml,
        _mosaicml_step,
        two_step=True,
        note=f"its optimizer class alone, for its pins exclude this torch; {KEEPS}",
        inner="base_optimizer",
    ),
]
