"""Environment and flags -> Settings. The only place that reads the environment.

A flag wins over its variable, a variable over the default. Variables whose ModelMesh name ends in
_MS are milliseconds there and seconds here. A known variable that this version does not support
stops the start: to ignore `MM_TLS_CLIENT_AUTH=REQUIRE` silently would be a lie.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from modelmesh.settings import NOT_YET, Settings, fields

_EXCLUSIVE = (
    ("runtime_port", "runtime_socket"),
    ("serving_port", "serving_socket"),
    ("auto_register", "auto_register_path"),
)
_ALIASES = {"MM_AUTO_REGISTER_MODEL": "MM_AUTO_REGISTER_MODELS"}
_CHOICES = {
    "eviction_policy": ("gdsf", "lru"),
    "tier": ("auto", "inline", "shared", "process"),
    "log_format": ("auto", "json", "text"),
    "log_level": ("debug", "info", "warning", "error"),
    "status_codes": ("contract", "modelmesh"),
}


class BadSettings(Exception):
    """One sentence that says what is wrong with the environment or the flags."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag per setting; absent flags leave the environment's value."""
    for field in fields():
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            dest=field.name,
            metavar=field.metadata["unit"].replace(" ", ""),
            help=_help(field),
        )


def _help(field: dataclasses.Field[Any]) -> str:
    text = f"{field.metadata['why']} [{field.metadata['env']}, default {field.default!r}]"
    return text.replace("%", "%%")  # argparse formats help texts with %


def read(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """The settings of one daemon; raises BadSettings."""
    _refuse_unsupported(environment)
    values: dict[str, Any] = {}
    environment = {_ALIASES.get(name, name): value for name, value in environment.items()}
    for field in fields():
        env = field.metadata["env"]
        if flags.get(field.name) is not None:
            values[field.name] = _parse(field, str(flags[field.name]), "--" + field.name)
        elif environment.get(env, "") != "":
            values[field.name] = _parse(field, environment[env], env)
    settings = Settings(**values)
    _refuse_conflicts(settings)
    return settings


def _refuse_unsupported(environment: Mapping[str, str]) -> None:
    for name, why in NOT_YET.items():
        if environment.get(name, "") != "":
            raise BadSettings(f"{name} is set, but {why}; unset it to start without.")


def _refuse_conflicts(settings: Settings) -> None:
    for one, other in _EXCLUSIVE:
        if getattr(settings, one) and getattr(settings, other):
            names = {f.name: f.metadata["env"] for f in fields()}
            raise BadSettings(f"{names[one]} and {names[other]} exclude each other.")


def _parse(field: dataclasses.Field[Any], text: str, origin: str) -> Any:
    try:
        value = _convert(field, text, milliseconds=origin.endswith("_MS"))
        if field.metadata["unit"] == "port" and text.upper() != "NONE":
            _check_port(text)
    except ValueError:
        raise BadSettings(f"{origin} must be {field.metadata['unit']}, not {text!r}.") from None
    choices = _CHOICES.get(field.name)
    if choices and value not in choices:
        raise BadSettings(f"{origin} must be one of {', '.join(choices)}, not {text!r}.")
    return value


def _convert(field: dataclasses.Field[Any], text: str, *, milliseconds: bool) -> Any:
    if isinstance(field.default, bool):
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(text)
        return text.lower() in ("true", "1", "yes")
    if isinstance(field.default, int):
        return int(text)
    if isinstance(field.default, float):
        return float(text) / 1000 if milliseconds else float(text)
    return text


def _check_port(text: str) -> None:
    if not 0 <= int(text) <= 65535:
        raise ValueError(text)
