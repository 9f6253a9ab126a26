"""A suite of digits that takes seconds, for plugins: with pytest, and where there is none."""

SUITE = """
name = "tiny"
backbone = "resnet20_cifar"
seeds = [0]
adapters = ["none"]
detectors = ["msp", "energy"]

[id]
name = "digits"
train = "digits/train"
test = "digits/test"

[ood.near]
heldout = "digits/heldout"

[preprocessing]
size = 8
resize = "none"

[base]
epochs = 1
augmentation = "none"

[recipe]
epochs = 1
augmentation = "none"
"""
