"""The resources that a call of a task locks: templates over its arguments, or functions of them.

Rules: fields are checked when the task is defined, not when it first runs; positional arguments, keywords and
defaults give the same resource.
"""

from __future__ import annotations

import inspect
import string
from typing import TYPE_CHECKING, Any, TypeAlias

from redlock import checks
from redlock.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OneKey: TypeAlias = "str | Callable[..., str]"
KeySpec: TypeAlias = "OneKey | list[OneKey]"


class Key:
    """Names the resource of a call.

    Args:
        spec: A template or a function.
        function: The task's function.

    Raises:
        ConfigurationError: The template is no template, or has a field that is no argument of the function.
    """

    def __init__(self, spec: OneKey, function: Callable[..., Any]) -> None:
        self._spec = spec
        self._name = getattr(function, "__qualname__", repr(function))
        self._signature = inspect.signature(function)
        if isinstance(spec, str):
            self._check(spec)
        elif not callable(spec):
            raise ConfigurationError(
                f"the key of {self._name} is {spec!r}; it must be a template such as 'account:{{id}}', or a function"
            )

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The resource that this call locks.

        Raises:
            TypeError: The arguments do not fit the function.
            ConfigurationError: What comes out is no resource name.
        """
        bound = self._signature.bind(*args, **kwargs)
        if not isinstance(self._spec, str):
            return checks.resource(self._spec(*bound.args, **bound.kwargs))
        bound.apply_defaults()
        values = dict(bound.arguments)
        for parameter in self._signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                values.update(values.pop(parameter.name))
        try:
            return checks.resource(self._spec.format(**values))
        except (LookupError, AttributeError) as exc:
            raise ConfigurationError(
                f"the key {self._spec!r} of {self._name} can't be made from this call: {exc!r}"
            ) from None

    def _check(self, template: str) -> None:
        parameters = self._signature.parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        except ValueError as exc:
            raise ConfigurationError(f"the key {template!r} of {self._name} is no template: {exc}") from None
        for field in fields:
            root = field.partition(".")[0].partition("[")[0]
            if not root.isidentifier() or (root not in parameters and not takes_any):
                raise ConfigurationError(
                    f"the key {template!r} of {self._name} has the field {{{field}}}, which is no argument of it; "
                    f"its arguments are {', '.join(parameters) or 'none'}"
                )
        if not template:
            checks.resource(template)


def keys(spec: KeySpec, function: Callable[..., Any]) -> list[Key]:
    """The keys of a task: one, or several that are taken all or nothing.

    Raises:
        ConfigurationError: One of them is no good, or the list is empty.
    """
    specs = spec if isinstance(spec, list | tuple) else [spec]
    if not specs:
        raise ConfigurationError("the list of keys is empty; give at least one, such as 'account:{id}'")
    return [Key(one, function) for one in specs]
