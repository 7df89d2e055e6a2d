"""A small SAM made of SAM's own parts, to be trained from scratch: TinyViT, the prompt encoder, the mask decoder.

It differs from MobileSAM in three ways: its widths and depths are free, its decoder may be narrower than 256, and the
masks get the encoder's features at strides 4 and 8, as SAM 2's do. Without these, thin strokes are lost.

Kirillov et al., "Segment Anything" (ICCV 2023); Wu et al., "TinyViT" (ECCV 2022); for the fine features Ravi et al.,
"SAM 2" (2024), section 4 and appendix D.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from cnn_core.segmentation.sam.params import SmallSamParams

STRIDE = 16  # of the embedding; the masks' stride is a quarter of it


def build_small_sam(params: SmallSamParams, imgsz: int) -> nn.Module:
    """Build the network with random weights, in evaluation mode, as an Ultralytics `SAMModel`.

    Args:
        imgsz: pixels of the input's side, a multiple of 32; an image is scaled to it. ``set_imgsz`` changes it later.
    """
    from ultralytics.models.sam.modules.encoders import PromptEncoder
    from ultralytics.models.sam.modules.sam import SAMModel
    from ultralytics.models.sam.modules.transformer import TwoWayTransformer

    side = imgsz // STRIDE
    transformer = TwoWayTransformer(
        depth=params.layers, embedding_dim=params.dim, num_heads=params.heads, mlp_dim=params.mlp_dim
    )
    network = SAMModel(
        image_encoder=_encoder(params, imgsz),
        prompt_encoder=PromptEncoder(
            embed_dim=params.dim,
            image_embedding_size=(side, side),
            input_image_size=(imgsz, imgsz),
            mask_in_chans=16,
        ),
        mask_decoder=_decoder(params, transformer),
    )
    waves = cast(Tensor, network.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
    waves *= params.frequency  # SAM's suit 64 x 64 cells: with fewer, only slower waves make neighbours look alike
    network.set_imgsz([imgsz, imgsz])
    return network.eval()


def _encoder(params: SmallSamParams, imgsz: int) -> Any:
    from ultralytics.models.sam.modules.tiny_encoder import LayerNorm2d, TinyViT

    class Encoder(TinyViT):
        """Images (N, 3, side, side) -> the embedding at stride 16, and the features at strides 4 and 8."""

        layers: Any  # stages of blocks

        def __init__(self) -> None:
            heads = [max(1, width // params.head_width) for width in params.widths]
            super().__init__(
                img_size=imgsz,
                num_classes=0,
                embed_dims=params.widths,
                depths=params.depths,
                num_heads=(heads[0], heads[1], heads[2], heads[3]),
                window_sizes=(7, *params.windows),  # the first stage has none
                drop_path_rate=0.0,
            )
            del self.norm_head, self.head
            # Ultralytics knows the stage that keeps stride 16 by MobileSAM's widths (320, 448, 576); ours are free.
            self.layers[2].downsample.conv2.c.stride = (1, 1)
            first, second, _, last = params.widths
            self.neck = nn.Sequential(
                nn.Conv2d(last, params.dim, 1, bias=False),
                LayerNorm2d(params.dim),
                nn.Conv2d(params.dim, params.dim, 3, padding=1, bias=False),
                LayerNorm2d(params.dim),
            )
            self.fine = nn.ModuleList([nn.Conv2d(first, params.dim // 8, 1), nn.Conv2d(second, params.dim // 4, 1)])

        def set_layer_lr_decay(self, layer_lr_decay: float) -> None:
            """Do nothing: one learning rate is used for all layers."""

        def forward_features(self, x: Tensor) -> dict[str, Any]:  # type: ignore[override]  # as SAM 2's encoder
            x = self.patch_embed(x)
            fine = []
            for number, layer in enumerate(self.layers):
                for block in layer.blocks:
                    x = block(x)
                if number < 2:
                    fine.append(self.fine[number](_as_image(x, layer.input_resolution)))
                if layer.downsample is not None:
                    x = layer.downsample(x)
            return {"image_embed": self.neck(_as_image(x, self.layers[3].input_resolution)), "high_res_feats": fine}

    return Encoder()


def _as_image(x: Tensor, shape: tuple[int, int]) -> Tensor:
    return x if x.ndim == 4 else x.transpose(1, 2).unflatten(2, tuple(shape))


def _decoder(params: SmallSamParams, transformer: nn.Module) -> Any:
    from ultralytics.models.sam.modules.decoders import MaskDecoder

    class Decoder(MaskDecoder):
        """SAM's mask decoder, which gets the fine features too."""

        predict_masks: Any  # replaced by one that takes fine features (`sam.network`)

        def forward(  # type: ignore[override]  # takes the encoder's dictionary, as SAM 2's decoder does
            self, image_embeddings: dict[str, Any], *, multimask_output: bool, **prompts: Tensor
        ) -> tuple[Tensor, Tensor]:
            masks, scores = self.predict_masks(
                image_embeddings=image_embeddings["image_embed"],
                high_res_features=image_embeddings["high_res_feats"],
                **prompts,
            )
            chosen = slice(1, None) if multimask_output else slice(0, 1)
            return masks[:, chosen], scores[:, chosen]

    return Decoder(
        transformer_dim=params.dim,
        transformer=transformer,
        num_multimask_outputs=3,  # this and the next two as in SAM
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
