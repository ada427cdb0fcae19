# SPDX-License-Identifier: Apache-2.0
"""The models of ``make coverage``: what they are called, where they come from, and how they are exported."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MODELS", "Entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One model.

    ``group``: "timm", "detector" (:mod:`benchmarks.coverage.detectors`), "torchvision" or "segmentation" (torchvision
    as well). ``size``: height and width of its one image, in pixels. ``opset``: of the export. ``dynamo``: by torch's
    newer exporter, else by the TorchScript one.
    """

    name: str
    group: str
    size: int
    opset: int = 17
    dynamo: bool = False


#: Opset 17 is the first with LayerNormalization, 13 what most vendors' guides ask for, 18 what torch.onnx.export writes
#: by itself today.
MODELS = (
    Entry("convnext_atto", "timm", 64),
    Entry("mobilenetv3_small_050", "timm", 64, opset=13),
    Entry("mobilevit_xxs", "timm", 64),
    Entry("efficientvit_b0", "timm", 64),
    Entry("swin_tiny_patch4_window7_224", "timm", 64),
    Entry("vit_tiny_patch16_224", "timm", 64),
    Entry("ghostnet_050", "timm", 64, opset=13),
    Entry("repvgg_a0", "timm", 64, opset=11),
    Entry("resnext26ts", "timm", 64),
    Entry("regnetx_002", "timm", 64, opset=13),
    Entry("edgenext_xx_small", "timm", 64),
    Entry("mobileone_s0", "timm", 64, opset=18, dynamo=True),
    Entry("fastvit_t8", "timm", 64),
    Entry("levit_128s", "timm", 64),
    Entry("poolformer_s12", "timm", 64, opset=18, dynamo=True),
    Entry("xcit_nano_12_p16_224", "timm", 64),
    Entry("cait_xxs24_224", "timm", 64),
    Entry("coatnet_pico_rw_224", "timm", 64),
    Entry("lcnet_050", "timm", 64, opset=13),
    Entry("tinynet_e", "timm", 64, opset=18, dynamo=True),
    Entry("yolov3_tiny_style", "detector", 96, opset=11),
    Entry("yolov4_tiny_style", "detector", 96, opset=13),
    Entry("yolov5_style", "detector", 96, opset=13),
    Entry("yolov6_style", "detector", 96, opset=13),
    Entry("yolov7_style", "detector", 96, opset=13),
    Entry("yolov8_style", "detector", 96, opset=13),
    Entry("yolov9_style", "detector", 96, opset=13),
    Entry("yolov10_style", "detector", 96, opset=13),
    Entry("yolo11_style", "detector", 96, opset=18, dynamo=True),
    Entry("yolox_style", "detector", 96, opset=11),
    Entry("ssd300_vgg16", "torchvision", 300, opset=13),
    Entry("ssdlite320_mobilenet_v3_large", "torchvision", 160, opset=13),
    Entry("retinanet_resnet50_fpn", "torchvision", 96, opset=13),
    Entry("fcos_resnet50_fpn", "torchvision", 96, opset=13),
    Entry("fasterrcnn_mobilenet_v3_large_320_fpn", "torchvision", 96, opset=13),
    Entry("lraspp_mobilenet_v3_large", "segmentation", 96, opset=13),
    Entry("deeplabv3_mobilenet_v3_large", "segmentation", 96),
)
