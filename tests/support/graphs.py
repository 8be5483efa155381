"""What passes in a Beam pipeline."""

from apache_beam.pipeline import PipelineVisitor


class _Types(PipelineVisitor):
    def __init__(self):
        self.found = {}

    def enter_composite_transform(self, node):
        self.visit_transform(node)

    def visit_transform(self, node):
        for tag, output in node.outputs.items():
            self.found[f"{node.full_label} {tag}"] = output.element_type


def element_types(pipeline):
    """Returns the type of the elements of every PCollection, by the transform that makes it."""
    types = _Types()
    pipeline.visit(types)
    return types.found
