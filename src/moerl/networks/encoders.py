"""Convolutional encoders: Nature CNN (Mnih et al. 2015) and Impala (Espeholt et al. 2018).

Both pad with SAME, so both end on an 11x11 grid.

Axes: H height, W width, C channels; leading axes (`...`) are batch axes, none for a single image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
from flax.linen.initializers import Initializer, lecun_normal, xavier_uniform

from moerl.networks.pooling import max_pool
from moerl.study.specs import IMPALA_FILTER_SIZE, Encoder, NetworkSpec

NATURE_LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""(channels, kernel size, stride) of each Nature convolution (method 2.1)."""

IMPALA_CHANNELS = (16, 32, 32)
IMPALA_BLOCKS = 2


def _conv(channels: int, size: int, stride: int, name: str, init: Initializer) -> nn.Conv:
    """A SAME-padded square convolution with zero initial bias."""
    return nn.Conv(channels, (size, size), (stride, stride), padding="SAME", kernel_init=init, name=name)


class NatureEncoder(nn.Module):
    """Three convolutions, each followed by ReLU: `[84, 84, 4]` to `[11, 11, 64]`."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Encode `image` `[..., 84, 84, 4]` (float32 in [0, 1]) as features `[..., 11, 11, 64]`."""
        x = image
        for i, (channels, size, stride) in enumerate(NATURE_LAYERS):
            x = nn.relu(_conv(channels, size, stride, f"conv{i}", xavier_uniform())(x))
        return x


class NatureLayer(nn.Module):
    """One of the Nature encoder's convolutions and its ReLU, by itself."""

    index: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Transform `x` `[..., H, W, C]`."""
        channels, size, stride = NATURE_LAYERS[self.index]
        return nn.relu(_conv(channels, size, stride, "conv", xavier_uniform())(x))


class ResidualBlock(nn.Module):
    """ReLU, convolution, ReLU, convolution, plus the input; the input's shape is kept."""

    filter_size: int = IMPALA_FILTER_SIZE

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Transform a feature map `x` `[..., H, W, C]`."""
        channels = x.shape[-1]
        # B18: the residual convolutions start from lecun_normal, all others from xavier_uniform.
        y = _conv(channels, self.filter_size, 1, "conv0", lecun_normal())(nn.relu(x))
        y = _conv(channels, self.filter_size, 1, "conv1", lecun_normal())(nn.relu(y))
        return x + y


class ImpalaStack(nn.Module):
    """Convolution, 3x3 max-pool that halves height and width, residual blocks."""

    channels: int
    filter_size: int = IMPALA_FILTER_SIZE

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Transform `x` `[..., H, W, C]` to `[..., ceil(H/2), ceil(W/2), channels]`."""
        x = _conv(self.channels, self.filter_size, 1, "conv", xavier_uniform())(x)
        x = max_pool(x)
        for i in range(IMPALA_BLOCKS):
            x = ResidualBlock(self.filter_size, name=f"block{i}")(x)
        return x


class ImpalaEncoder(nn.Module):
    """Three stacks and one final ReLU: `[84, 84, 4]` to `[11, 11, 32]`."""

    filter_size: int = IMPALA_FILTER_SIZE

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Encode `image` `[..., 84, 84, 4]` (float32 in [0, 1]) as features `[..., 11, 11, 32]`."""
        x = image
        for i, channels in enumerate(IMPALA_CHANNELS):
            x = ImpalaStack(channels, self.filter_size, name=f"stack{i}")(x)
        return nn.relu(x)


def build_encoder(spec: NetworkSpec) -> nn.Module:
    """The encoder of variant `spec`, to be bound under the parameter name `encoder`."""
    match spec.encoder:
        case Encoder.CNN:
            return NatureEncoder(name="encoder")
        case Encoder.IMPALA:
            return ImpalaEncoder(spec.filter_size, name="encoder")


def encoder_layers(spec: NetworkSpec) -> list[Callable[..., nn.Module]]:
    """Makers, given a parameter `name`, of the modules that an encoder consists of, in order.

    Nature: the convolutions. Impala: the stacks; its final ReLU, which has no parameters, is left to
    the caller (it does nothing to the Nature CNN's output).
    """
    match spec.encoder:
        case Encoder.CNN:
            return [partial(NatureLayer, i) for i in range(len(NATURE_LAYERS))]
        case Encoder.IMPALA:
            return [partial(ImpalaStack, channels, spec.filter_size) for channels in IMPALA_CHANNELS]
