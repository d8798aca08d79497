"""Whether timm's weights can be had from the Hugging Face Hub, found out in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from glocal.errors import GlocalError, in_a_line

_PATIENCE = 5.0  # seconds until the hub has to answer
_PLACES = frozenset({"file", "url", "hf_hub_id", "state_dict"})  # of weights, in timm's notes on a network
_FILES = ("model.safetensors", "pytorch_model.bin")  # in which it has weights


def check_weights_at_hand(name: str, what: str, options: Mapping[str, Any] | None = None) -> None:
    """Looks for weights on this machine, then asks the hub once; timm's own way asks it a dozen times, for a minute.

    Args:
        name: of a timm model, with or without the tag of its weights.
        what: begins the message of an error.
        options: of the network, which may name another place of its weights.

    Raises:
        GlocalError: they are not on this machine, and the hub does not answer. What it answers is for timm to see.
    """
    config = timm.models.get_pretrained_cfg(name)
    own = [(options or {}).get(key) or {} for key in ("pretrained_cfg", "pretrained_cfg_overlay")]
    elsewhere = any(isinstance(one, Mapping) and not _PLACES.isdisjoint(one) for one in own)
    if config is None or not config.hf_hub_id or elsewhere:
        return
    repository, _, revision = config.hf_hub_id.partition("@")
    files = (config.hf_hub_filename,) if config.hf_hub_filename else _FILES
    if any(isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str) for file in files):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, files[0], revision=revision or None), timeout=_PATIENCE)
    except HfHubHTTPError:
        return
    except Exception as error:  # every version of the client fails in its own way
        raise GlocalError(
            f"{what}: the weights {repository} are not on this machine, and the Hugging Face Hub does not answer "
            f"({in_a_line(error)[:120]}); load them where there is a network and copy ~/.cache/huggingface here, or "
            "name a file of weights"
        ) from error
