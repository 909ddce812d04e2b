"""Object-contextual representations (OCR): each pixel is described by the objects around it.

Yuan, Chen and Wang, "Object-Contextual Representations for Semantic Segmentation" (arXiv
1909.11065), section 3.2, in the form of HRNet's published networks. The class logits of another
head are the soft object regions. They gather one representation per class from the pixels, and
every pixel takes a weighted sum of these, by its relation to each.
"""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from gsto_jax.layers.blocks import Composite, ConvBN
from gsto_jax.ops.checks import COUNT, between, check_map
from gsto_jax.ops.floating import as_floating


def soft_object_regions(logits: Real[Array, "b h w k"]) -> Float[Array, "b h w k"]:
    """Returns the soft object region of each class: a distribution over the pixels of an image.

    Args:
      logits: class logits.

    Returns:
      The softmax over the pixels, not over the classes; at least float32.
    """
    logits = as_floating(logits)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jax.nn.softmax(logits, axis=(1, 2))


def object_representations(
    regions: Float[Array, "b h w k"], pixels: Float[Array, "b h w c"]
) -> Float[Array, "b 1 k c"]:
    """Returns the mean of the pixels in each soft object region, in the dtype of `pixels`."""
    objects = _einsum("bhwk,bhwc->bkc", regions, pixels)
    return objects[:, None]


def pixel_object_relation(
    queries: Float[Array, "b h w q"], keys: Float[Array, "b 1 k q"]
) -> Float[Array, "b h w k"]:
    """Returns the relation of each pixel to each object: a distribution over the objects.

    Returns:
      The softmax of the scaled products of queries and keys; at least float32.
    """
    wide = jnp.promote_types(queries.dtype, jnp.float32)
    scores = jnp.einsum("bhwq,bkq->bhwk", queries, keys[:, 0], preferred_element_type=wide)
    return jax.nn.softmax(scores / math.sqrt(queries.shape[-1]), axis=-1)


def _einsum(subscripts: str, weights: Array, values: Array) -> Array:
    """Sums weighted values in at least float32; returns the dtype of the values."""
    sums = jnp.einsum(
        subscripts,
        weights.astype(values.dtype),
        values,
        preferred_element_type=jnp.promote_types(values.dtype, jnp.float32),
    )
    return sums.astype(values.dtype)


class ObjectContext(Composite):
    """Object-contextual representation: the objects that each pixel is related to.

    Queries of the pixels and keys of the objects pass two 1x1 convolutions each, the values of the
    objects and the context one, all with BN and ReLU.

    Attributes:
      features: channels of the context.
      key_features: channels of queries, keys and values.
    """

    rules: ClassVar = {"key_features": COUNT}

    features: int
    key_features: int

    @nn.compact
    def __call__(
        self,
        pixels: Float[Array, "b h w c"],
        objects: Float[Array, "b 1 k c"],
        train: bool = False,
    ) -> Float[Array, "b h w features"]:
        """Computes the context of each pixel.

        Args:
          pixels: features of the pixels.
          objects: representation of each object (see `object_representations`).
          train: whether BN uses the statistics of the batch; those of the objects are over all
            objects of all images.
        """
        queries = self._project(self._project(pixels, "query0", train), "query1", train)
        keys = self._project(self._project(objects, "key0", train), "key1", train)
        values = self._project(objects, "value", train)
        relation = pixel_object_relation(queries, keys)
        context = _einsum("bhwk,bkc->bhwc", relation, values[:, 0])
        return ConvBN(self.features, 1, **self.factories, name="up")(context, train)

    def _project(self, x: Array, name: str, train: bool) -> Array:
        result: Array = ConvBN(self.key_features, 1, **self.factories, name=name)(x, train)
        return result


class OCRHead(Composite):
    """Head with object-contextual representations: class logits from a map and coarse logits.

    A 3x3 convolution makes the pixel features. `ObjectContext` is concatenated with them, fused by
    a 1x1 convolution, BN, ReLU and dropout of whole channels, and classified by a 1x1 convolution.
    Train the coarse logits by their own loss, usually with weight 0.4.

    Attributes:
      num_classes: channels of the logits.
      features: channels of pixel features, objects and context.
      key_features: channels of queries, keys and values.
      dropout: fraction of the channels that are dropped in training; above 0 it needs the random
        key "dropout".

    Example:
      >>> x, coarse = jnp.ones((2, 16, 16, 270)), jnp.ones((2, 16, 16, 19))
      >>> head = OCRHead(num_classes=19)
      >>> logits, variables = head.init_with_output(jax.random.key(0), x, coarse)
      >>> logits.shape
      (2, 16, 16, 19)
    """

    rules: ClassVar = {"key_features": COUNT, "dropout": between(0, 1)}

    num_classes: int
    features: int = 512
    key_features: int = 256
    dropout: float = 0.05

    @nn.compact
    def __call__(
        self,
        x: Real[Array, "b h w c"],
        coarse_logits: Real[Array, "b h w k"],
        train: bool = False,
    ) -> Float[Array, "b h w num_classes"]:
        """Predicts class logits.

        Args:
          x: feature map.
          coarse_logits: class logits of another head on the map.
          train: whether BN uses the statistics of the batch, and channels are dropped.

        Raises:
          ValueError: `x` or the logits are not `b h w c`.
        """
        check_map(x, "OCRHead")
        check_map(coarse_logits, "OCRHead")
        factories = self.factories
        pixels: Any = ConvBN(self.features, 3, use_bias=True, **factories, name="pixel")(x, train)
        objects = object_representations(soft_object_regions(coarse_logits), pixels)
        context = ObjectContext(self.features, self.key_features, **factories, name="context")
        y = jnp.concatenate([context(pixels, objects, train), pixels], -1)
        y = ConvBN(self.features, 1, **factories, name="fuse")(y, train)
        dropout = nn.Dropout(self.dropout, broadcast_dims=(1, 2), name="dropout")
        y = dropout(y, deterministic=not train)
        return self.conv(self.num_classes, 1, use_bias=True, name="classifier")(y)
