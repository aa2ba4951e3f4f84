"""How far a U-Net sees. Known without PyTorch, so that windows can be read where there is none."""


def network_context(depth: int) -> int:
    """How far, in pixels, an input pixel can reach in the output.

    At level l (pixels of 2^l) two 3x3 convolutions reach 2 pixels going down and 2 going up, one
    level at the bottom only 2 in all; pooling and its inverse add the rest of one coarse pixel. A
    light full resolution sees a little less.
    """
    coarsest: int = 2**depth
    return 4 * (coarsest - 1) + 2 * coarsest + coarsest - 1
