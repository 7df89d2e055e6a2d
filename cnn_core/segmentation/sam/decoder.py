"""The inner part of the mask decoder of SAM and SAM 2, written so that all prompts share the work on the image.

Ultralytics' decoder repeats the image for every prompt. Here everything that depends on the image alone is computed
once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 512  # cells of the image that are upscaled at a time: 1 MB in the official networks
PIECE = 1 << 24  # numbers in two images of all prompts that are decoded at a time (64 MB): eight at 1024 pixels


def predict_masks(
    decoder: Any,
    *,
    image_embeddings: Tensor,
    image_pe: Tensor,
    sparse_prompt_embeddings: Tensor,
    dense_prompt_embeddings: Tensor,
    repeat_image: bool | None = None,
    high_res_features: Sequence[Tensor] | None = None,
    single: bool = False,
) -> tuple[Tensor, ...]:
    """Decode many prompts on one image, as the method of this name in Ultralytics' mask decoders of SAM and SAM 2.

    It computes the same sums in another order (logits differ by about 1e-5), in less than half of the time.
    Ultralytics copies the image (4096 cells) for every prompt (8 tokens) and multiplies each copy by the projections
    of every attention. Here the projections are multiplied into the tokens, q · (W k) = (Wᵀ q) · k, and the first
    layer, where the image is the same for all prompts, copies nothing. Channels are the last dimension, so that an
    upsampling by strided transposed convolution is a matrix product. On a CPU few prompts are decoded at a time, so
    that the next ones reuse their memory: new memory costs as much as the sums.

    Args:
        image_embeddings: (B, C, H, W), of B images that have the same number of prompts.
        image_pe: (1, C, H, W), the positional encoding.
        sparse_prompt_embeddings: (N, P, C), N a multiple of B: the first image's prompts, then the second's …
        dense_prompt_embeddings: (N, C, H, W), the same for all prompts, as no prompt is a mask.
        high_res_features: of SAM 2: (B, C / 8, 4H, 4W) and (B, C / 4, 2H, 2W).
        single: compute only the first mask, for SAM alone, as SAM 2 may choose among those of an ambiguous prompt.
    """
    side = image_embeddings.shape[-1]
    output_tokens = [decoder.iou_token.weight, decoder.mask_tokens.weight]
    if sam_2 := repeat_image is not None:
        output_tokens = [decoder.obj_score_token.weight, *output_tokens] if decoder.pred_obj_scores else output_tokens
    first = 1 if sam_2 and decoder.pred_obj_scores else 0
    count = len(sparse_prompt_embeddings)
    tokens = torch.cat([torch.cat(output_tokens).expand(count, -1, -1), sparse_prompt_embeddings], 1)
    image = (image_embeddings + dense_prompt_embeddings[:1]).flatten(2).transpose(1, 2).contiguous()
    positions = image_pe.flatten(2).transpose(1, 2).contiguous()
    shared = _SharedKeys.once(decoder.transformer, image, positions, tokens)
    parts = [
        _decoded(decoder, image, positions, part, side, first, high_res_features, shared, single)
        for part in tokens.split(_piece(image, count))
    ]
    masks, outputs, tokens = (torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True))
    scores = decoder.iou_prediction_head(tokens[:, first])
    if not sam_2:
        return masks, scores
    present = decoder.pred_obj_score_head(tokens[:, 0]) if first else scores.new_full((count, 1), 10.0)
    return masks, scores, outputs, present


def _piece(image: Tensor, count: int) -> int:
    """How many of ``count`` prompts are decoded at a time: all of them on a GPU or when gradients are needed."""
    if image.is_cuda or torch.is_grad_enabled() or len(image) > 1:
        return max(1, count)
    return max(1, PIECE // (2 * image.numel()))


def _decoded(
    decoder: Any,
    image: Tensor,
    positions: Tensor,
    tokens: Tensor,
    side: int,
    first: int,
    finer: Sequence[Tensor] | None,
    shared: _SharedKeys | None,
    single: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (N, T, C) -> mask logits (N, masks, 4H, 4W), the masks' tokens, and all that are read."""
    heads = decoder.output_hypernetworks_mlps[:1] if single else decoder.output_hypernetworks_mlps
    tokens, image = _two_way(decoder.transformer, image, positions, tokens, shared, first + 1 + len(heads))
    outputs = tokens[:, first + 1 :]
    weights = torch.stack([head(outputs[:, index]) for index, head in enumerate(heads)], 2)  # (N, C / 8, masks)
    logits = _logits(decoder, image, weights, _by_cell(finer, side))
    # Rows are the image's cells, within each its quarters, within each their quarters: y x, y x, y x.
    logits = logits.view(len(tokens), side, side, 2, 2, 2, 2, -1).permute(0, 7, 1, 3, 5, 2, 4, 6)
    return logits.reshape(len(tokens), -1, 4 * side, 4 * side), outputs, tokens


class _SharedKeys:
    """The image's keys and values in the first layer, where they are the same for all prompts."""

    def __init__(self, attention: Any, key: Tensor, value: Tensor) -> None:
        self.attention = attention
        self.key, self.value = (
            projection(of).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for projection, of in ((attention.k_proj, key), (attention.v_proj, value))
        )

    @classmethod
    def once(cls, transformer: Any, image: Tensor, positions: Tensor, tokens: Tensor) -> _SharedKeys | None:
        """None if there are so few tokens that it is less work to multiply the projections into them."""
        attention = transformer.layers[0].cross_attn_token_to_image
        few = tokens.shape[0] * tokens.shape[1] * attention.num_heads < attention.k_proj.out_features
        return None if few or len(image) > 1 else cls(attention, image + positions, image)

    def __call__(self, query: Tensor) -> Tensor:
        rows = self.attention.q_proj(query).flatten(0, 1)[None].unflatten(-1, (self.attention.num_heads, -1))
        attended = nn.functional.scaled_dot_product_attention(rows.transpose(1, 2), self.key, self.value)
        return self.attention.out_proj(attended.transpose(1, 2).flatten(2)).view(query.shape)


def _two_way(
    transformer: Any, image: Tensor, positions: Tensor, prompts: Tensor, shared: _SharedKeys | None, read: int
) -> tuple[Tensor, Tensor]:
    """SAM's two-way transformer: image and positions (1, HW, C), prompts (N, T, C) -> (N, read, C) and (N, HW, C)."""
    tokens, original = prompts, image
    plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled(image.device.type)
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
        else:
            located = tokens + prompts
            tokens = tokens + layer.self_attn(q=located, k=located, v=tokens)
        tokens = layer.norm1(tokens)
        key = image + positions
        if shared is not None:
            tokens, shared = layer.norm2(tokens + shared(tokens + prompts)), None
        else:
            tokens = layer.norm2(tokens + _to_image(layer.cross_attn_token_to_image, tokens + prompts, key, image))
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        attended = _from_tokens(
            layer.cross_attn_image_to_token, key, tokens + prompts, tokens, image, spare=plain and image is not original
        )
        image = layer.norm4(attended)
    tokens, prompts = tokens[:, :read], prompts[:, :read]
    attended = _to_image(transformer.final_attn_token_to_image, tokens + prompts, image + positions, image)
    return transformer.norm_final_attn(tokens + attended), image


def _to_image(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads = attention.num_heads
    query = attention.q_proj(query).unflatten(-1, (heads, -1))
    count, number, _, width = query.shape
    into_key = attention.k_proj.weight.unflatten(0, (heads, -1))
    query = torch.einsum("nthd,hdc->nhtc", query, into_key) / math.sqrt(width)  # k's bias is the same for all cells
    query = query.reshape(len(key), -1, query.shape[-1])
    attended = torch.softmax(query @ key.transpose(1, 2), -1) @ value
    into_value = attention.v_proj.weight.unflatten(0, (heads, -1))
    attended = torch.einsum("nhtc,hdc->nthd", attended.view(count, heads, number, -1), into_value)
    return attention.out_proj(attended.flatten(2) + attention.v_proj.bias)


def _from_tokens(attention: Any, query: Tensor, key: Tensor, value: Tensor, image: Tensor, *, spare: bool) -> Tensor:
    """The image plus what its cells (query) take from the tokens (N, T, C); with ``spare`` written over the image."""
    heads = attention.num_heads
    key, value = (x.unflatten(-1, (heads, -1)) for x in (attention.k_proj(key), attention.v_proj(value)))
    count, number, _, width = key.shape
    key = key / math.sqrt(width)
    bias = torch.einsum("nthd,hd->nth", key, attention.q_proj.bias.unflatten(0, (heads, -1))).reshape(count, -1, 1)
    into_query = attention.q_proj.weight.unflatten(0, (heads, -1))
    key = torch.einsum("nthd,hdc->nthc", key, into_query).flatten(1, 2)  # (N, T * heads, C)
    if len(query) == 1:  # the same for all prompts: one product
        weights = (key.flatten(0, 1) @ query[0].T).view(count, number * heads, -1) + bias
    else:
        weights = torch.baddbmm(bias, key, _per_prompt(query.transpose(1, 2), count))
    weights = torch.softmax(weights.view(count, number, -1), 1)  # cells last: a softmax of 8 in a row is slow
    weights = weights.view(count, number * heads, -1).transpose(1, 2)
    into_image = attention.out_proj.weight.unflatten(1, (heads, -1))
    value = torch.einsum("nthd,chd->nthc", value, into_image).flatten(1, 2)
    value = value + attention.out_proj.bias / heads  # a head's weights sum to 1
    return image.baddbmm_(weights, value) if spare else torch.baddbmm(_per_prompt(image, count), weights, value)


def _per_prompt(image: Tensor, count: int) -> Tensor:
    """Repeat (B, …) of images for each of their prompts (count, …)."""
    if len(image) == 1:
        return image.expand(count, *image.shape[1:])
    return image.repeat_interleave(count // len(image), 0) if len(image) < count else image


def _by_cell(finer: Sequence[Tensor] | None, side: int) -> tuple[Tensor, Tensor] | None:
    """SAM 2's finer features in the order of the rows of `_upscaled`: (B, HW, 4, C / 4) and (B, HW, 4, 4, C / 8)."""
    if finer is None:
        return None
    halves = finer[1].unflatten(3, (side, 2)).unflatten(2, (side, 2))  # (B, C, y, y, x, x)
    quarters = finer[0].unflatten(3, (side, 2, 2)).unflatten(2, (side, 2, 2))
    return (
        halves.permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2, 3),
        quarters.permute(0, 2, 5, 3, 6, 4, 7, 1).flatten(1, 2).flatten(2, 3).flatten(3, 4),
    )


def _logits(decoder: Any, image: Tensor, weights: Tensor, fine: tuple[Tensor, Tensor] | None) -> Tensor:
    """The upscaled image (N, HW, C) times the masks' weights (N, C / 8, masks): (N, HW, 4, 4, masks).

    On a CPU a block of cells is upscaled at a time, so that the results stay in the processor's cache.
    """
    kernels = [_kernel(decoder.output_upscaling[number]) for number in (0, 3)]
    if image.is_cuda or torch.is_grad_enabled():
        return _upscaled(decoder, image, fine, kernels) @ weights[:, None, None]
    count, cells, _ = image.shape
    blocks = [
        _upscaled(
            decoder,
            image[prompt : prompt + 1, rows],
            fine and (_of_prompt(fine[0], prompt, count)[:, rows], _of_prompt(fine[1], prompt, count)[:, rows]),
            kernels,
        )
        @ weights[prompt]
        for prompt in range(count)
        for rows in (slice(start, start + BLOCK) for start in range(0, cells, BLOCK))
    ]
    return torch.cat(blocks, 1).view(count, cells, 4, 4, -1)


def _of_prompt(maps: Tensor, prompt: int, count: int) -> Tensor:
    image = prompt * len(maps) // count
    return maps[image : image + 1]


def _upscaled(
    decoder: Any, image: Tensor, fine: tuple[Tensor, Tensor] | None, kernels: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """(N, P, C) -> (N, P, 4, 4, C / 8): the quarters of each of P cells, and the quarters of each of these."""
    _, norm, activation, _, last = decoder.output_upscaling
    image = _quartered(image, *kernels[0])
    if fine is not None:
        image = image + _per_prompt(fine[0], len(image))
    image = activation(nn.functional.layer_norm(image, image.shape[-1:], norm.weight, norm.bias, norm.eps))
    image = _quartered(image, *kernels[1])
    if fine is not None:
        image = image + _per_prompt(fine[1], len(image))
    return last(image)


def _kernel(convolution: Any) -> tuple[Tensor, Tensor]:
    """A transposed convolution of 2 x 2 with stride 2, as a matrix (C, 2 * 2 * D) and a bias (2 * 2 * D,)."""
    return convolution.weight.permute(0, 2, 3, 1).flatten(1), convolution.bias.repeat(4)


def _quartered(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, rows.flatten(0, -2), weight).view(*rows.shape[:-1], 4, -1)
