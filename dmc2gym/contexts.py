"""The OpenGL context that is current: an env's own while it draws, and the one before afterwards.

dm_control remembers which of its contexts it made current last, and does not ask OpenGL. Others
that draw on the same thread, such as Gymnasium's MuJoCo environments, make theirs current unseen;
each would then draw with the textures and into the buffer of the other. With OSMesa dm_control
draws on threads of its own, where nobody else does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from dm_control import _render

from distracting_control.rendering import RenderingError, choose_backend

if TYPE_CHECKING:
    from dm_control.mujoco import Physics

_CAN_DRAW = ("egl", "glfw", "osmesa")
_drawing: int | None = None  # the process that has drawn


class _Current(NamedTuple):
    """A context that is current.

    Attributes:
        address: Where it lies; None for no context.
        restore: Makes it current again.
    """

    address: int | None
    restore: Callable[[], Any]


@contextlib.contextmanager
def own_context(physics: Physics) -> Iterator[None]:
    """Makes a simulation's context the current one, if it has one yet, and puts back what was.

    Raises:
        RenderingError: If nothing can draw, or this process was forked from one that has drawn.
    """
    _check_process()
    if _render.BACKEND not in _CAN_DRAW:
        choose_backend()  # says why
    current = {"egl": _current_in_egl, "glfw": _current_in_glfw}.get(_render.BACKEND)
    if current is None:
        yield
        return
    before, contexts = current(), physics._contexts
    own = None if contexts is None else _address(contexts.gl._context)
    if own is not None and own != before.address:
        contexts.gl._platform_make_current()
    try:
        yield
    finally:
        if before.address is not None and before.address != own:
            before.restore()


def free(physics: Physics) -> None:
    """Frees a simulation and its renderer; one that was drawn before a fork is its parent's."""
    if physics._contexts is None:
        physics.free()
    elif _drawing == os.getpid():
        with own_context(physics):
            physics.free()


def _check_process() -> None:
    global _drawing
    if _drawing not in (None, os.getpid()):
        raise RenderingError(
            "this process was forked from one that has drawn, which OpenGL does not survive: spawn "
            "it instead, with gymnasium.make_vec by vector_kwargs={'context': 'spawn'}"
        )
    _drawing = os.getpid()


def _current_in_egl() -> _Current:
    from OpenGL import EGL

    context, display = EGL.eglGetCurrentContext(), EGL.eglGetCurrentDisplay()
    surfaces = [EGL.eglGetCurrentSurface(each) for each in (EGL.EGL_DRAW, EGL.EGL_READ)]
    return _Current(_address(context), lambda: EGL.eglMakeCurrent(display, *surfaces, context))


def _current_in_glfw() -> _Current:
    import glfw

    window = glfw.get_current_context()
    return _Current(_address(window), lambda: glfw.make_context_current(window))


def _address(pointer: Any) -> int | None:
    return ctypes.cast(pointer, ctypes.c_void_p).value
