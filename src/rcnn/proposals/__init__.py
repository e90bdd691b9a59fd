"""Where regions come from: anchors and the region proposal network, Selective Search, or files."""

from rcnn.proposals.anchors import AnchorOptions, Anchors
from rcnn.proposals.found import FoundRegions
from rcnn.proposals.method import RegionMethod
from rcnn.proposals.region_files import FileRegions, write_regions
from rcnn.proposals.regions import CachedRegions, RegionOptions, fill, method_of
from rcnn.proposals.rpn import RPN, RPNOptions
from rcnn.proposals.selective_search import SelectiveSearch, SelectiveSearchOptions

__all__ = [
    "RPN",
    "AnchorOptions",
    "Anchors",
    "CachedRegions",
    "FileRegions",
    "FoundRegions",
    "RPNOptions",
    "RegionMethod",
    "RegionOptions",
    "SelectiveSearch",
    "SelectiveSearchOptions",
    "fill",
    "method_of",
    "write_regions",
]
