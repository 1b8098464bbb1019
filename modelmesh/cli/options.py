"""Environment and flags -> Settings. The only place that reads the environment.

A flag wins over its variable, a variable over the default. Variables whose ModelMesh name ends in
_MS are milliseconds there and seconds here, _MB are MiB there and bytes here. A known variable that
this version does not support stops the start: to ignore `MM_TLS_CLIENT_AUTH=REQUIRE` silently would
be a lie. One that can mean nothing without a Java machine is told (`without_effect`).
"""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from modelmesh.settings import MIB, NO_EFFECT, NO_PROPERTIES, NOT_YET, Settings, fields

_EXCLUSIVE = (
    ("runtime_port", "runtime_socket"),
    ("serving_port", "serving_socket"),
    ("auto_register", "auto_register_path"),
    ("dataplane_config", "dataplane_config_path"),
    ("type_constraints", "type_constraints_path"),
)
_JVM_ARGS = "CUSTOM_JVM_ARGS"
_PROPERTIES = ("tas.", "mm.", "litelinks.")  # the names that ModelMesh gives to its own
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
    for name, why in (NOT_YET | NO_PROPERTIES).items():
        if environment.get(name, "") != "":
            raise BadSettings(f"{name} is set, but {why}; unset it to start without.")
    for argument in environment.get(_JVM_ARGS, "").split():
        if why := _meant_for_modelmesh(argument):
            name = argument.partition("=")[0]  # its value may be a secret
            raise BadSettings(f"{_JVM_ARGS} has {name}, but {why}; remove it to start without.")


def _meant_for_modelmesh(argument: str) -> str:
    """Why an argument for the Java machine cannot be passed over; "": it is for that alone."""
    if not argument.strip("'\"").startswith("-D"):
        return ""
    name = argument.strip("'\"").removeprefix("-D").partition("=")[0]
    if name in NO_PROPERTIES:
        return NO_PROPERTIES[name]
    if name in NOT_YET or any(name == field.metadata["env"] for field in fields()):
        return "properties are not read: set the variable of that name"
    return "ModelMesh's properties are not read" if name.startswith(_PROPERTIES) else ""


def without_effect(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that are set and can have no effect here, each with the reason."""
    return {name: why for name, why in NO_EFFECT.items() if environment.get(name, "") != ""}


def _refuse_conflicts(settings: Settings) -> None:
    for one, other in _EXCLUSIVE:
        if getattr(settings, one) and getattr(settings, other):
            names = {f.name: f.metadata["env"] for f in fields()}
            raise BadSettings(f"{names[one]} and {names[other]} exclude each other.")


def _parse(field: dataclasses.Field[Any], text: str, origin: str) -> Any:
    try:
        value = _convert(field, text, origin)
        if field.metadata["unit"] == "port" and text.upper() != "NONE":
            _check_port(text)
    except ValueError:
        raise BadSettings(f"{origin} must be {field.metadata['unit']}, not {text!r}.") from None
    choices = _CHOICES.get(field.name)
    if choices and value not in choices:
        raise BadSettings(f"{origin} must be one of {', '.join(choices)}, not {text!r}.")
    return value


def _convert(field: dataclasses.Field[Any], text: str, origin: str) -> Any:
    if isinstance(field.default, bool):
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(text)
        return text.lower() in ("true", "1", "yes")
    if isinstance(field.default, int):
        return int(text) * (MIB if origin.endswith("_MB") else 1)
    if isinstance(field.default, float):
        return float(text) / (1000 if origin.endswith("_MS") else 1)
    return text


def _check_port(text: str) -> None:
    if not 0 <= int(text) <= 65535:
        raise ValueError(text)
