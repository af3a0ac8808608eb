"""To be run on 8 devices: the fused head on several meshes against whole logits on one device, in float64.

Told "split" it runs every objective on a mesh that splits rows and vocabulary, told "others" all other cases.
Prints one JSON line: the greatest relative difference of each case.
"""

import itertools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cat_jax.losses.fused import FusedHead
from cat_jax.losses.objective import Objective
from cat_jax.parallel.batches import ROW_AXES, VOCAB_AXIS
from cat_jax.parallel.mesh import MeshConfig
from cat_jax.types import Batch, Head, ModelOutput, SparseDistribution, TeacherSignal

SPLIT, MESHES = (1, 2, 4), ((1, 1, 1), (8, 1, 1), (2, 4, 1))
OBJECTIVES = {
    "xent": ({"w": 1.0, "keep": "all", "z_loss": 0.01}, "none", None),
    "dist": ({"w": 0.3, "keep": "all"}, "output", None),
    "cat_xent": ({"w": 1.0, "label_smoothing": 0.1}, "bit", None),
    "cat_dist": ({"w": 0.3}, "output", None),
    "cat_dist, softened and capped": ({"w": 0.3, "temperature": 2.0}, "output", 2.0),
    "cat_dist, sparse": ({"w": 0.3}, "sparse", None),
}
ROWS, POSITIONS, WIDTH, TEACHER_WIDTH = 8, 6, 4, 6


def arguments(vocabulary, kind, softcap):
    """Rows of 0 to 6 target tokens, two examples a row as packing has them; the teacher's table is padded otherwise."""
    draw = np.random.default_rng(vocabulary)
    shape = (ROWS, POSITIONS)
    targets = draw.integers(0, vocabulary, shape)
    weights = (np.arange(POSITIONS) < np.array([6, 4, 0, 5, 1, 0, 3, 6])[:, None]).astype(np.float32)
    weights[0, 3] = weights[7, 2] = 0  # between two examples of a row
    hidden, teacher_hidden = draw.normal(size=(*shape, WIDTH)), draw.normal(size=(*shape, TEACHER_WIDTH))
    kernel, teacher_kernel = draw.normal(size=(WIDTH, vocabulary + 3)), draw.normal(size=(TEACHER_WIDTH, vocabulary))
    for index, (row, position) in enumerate(np.ndindex(shape)):
        if index % 3:
            # Where the target is what student or teacher would say, so that every cell has tokens.
            state, table = ((hidden, kernel), (teacher_hidden, teacher_kernel))[index % 3 - 1]
            targets[row, position] = np.argmax(state[row, position] @ table[:, :vocabulary])
    batch = Batch(jnp.asarray(targets), jnp.asarray(targets), jnp.asarray(weights))
    student = ModelOutput(jnp.asarray(hidden), Head(jnp.asarray(kernel), vocabulary, softcap))
    teacher = ModelOutput(jnp.asarray(teacher_hidden), Head(jnp.asarray(teacher_kernel), vocabulary, softcap))
    right = jnp.asarray(draw.random(shape) < 0.5)
    ids = jnp.asarray(draw.integers(0, vocabulary, (*shape, 5)))
    sparse = SparseDistribution(ids, jnp.asarray(draw.dirichlet(np.ones(6), shape)[..., :5]), jnp.full(shape, 0.1))
    signals = {
        "none": None,
        "output": TeacherSignal(None, output=teacher),
        "bit": TeacherSignal(right),
        "sparse": TeacherSignal(right, sparse=sparse),
    }
    return student, batch, signals[kind]


def gradients(objective, head):
    def loss(hidden, kernel, student, batch, signal):
        output = ModelOutput(hidden, Head(kernel, student.head.vocab_size, student.head.softcap))
        result = objective(output, batch, signal, head=head)
        return result.loss_sum, result

    def run(student, batch, signal):
        return jax.grad(loss, (0, 1), has_aux=True)(student.hidden, student.head.kernel, student, batch, signal)

    return jax.jit(run)


def placed(tree, mesh):
    """Rows over the mesh; kernels, and what else has no rows, are split by the embedding alone, or not at all."""
    rows, everywhere = NamedSharding(mesh, PartitionSpec(ROW_AXES)), NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.device_put(x, rows if x.shape[:2] == (ROWS, POSITIONS) else everywhere), tree)


def difference(left, right):
    scale = max(float(jnp.max(jnp.abs(right))), 1e-30)
    return float(np.max(np.abs(np.asarray(left) - np.asarray(right)))) / scale


def main():
    jax.config.update("jax_enable_x64", True)
    others = [(name, 997, shape) for name, shape in itertools.product(OBJECTIVES, MESHES)]
    wide = itertools.product(("cat_dist", "cat_xent"), (32128, 32100, 151936))
    others += [(name, vocabulary, SPLIT) for name, vocabulary in wide]
    cases = {"split": [(name, 997, SPLIT) for name in OBJECTIVES], "others": others}
    expected, differences = {}, {}
    for name, vocabulary, shape in cases[sys.argv[1]]:
        fields, kind, softcap = OBJECTIVES[name]
        tokens = arguments(vocabulary, kind, softcap)
        if (name, vocabulary) not in expected:
            expected[name, vocabulary] = gradients(Objective(**fields), None)(*tokens)
        mesh = MeshConfig(*shape).build(jax.devices()[: shape[0] * shape[1] * shape[2]])
        head = FusedHead(mesh, ROW_AXES, VOCAB_AXIS, block_tokens=4)
        found = gradients(Objective(**fields), head)(*placed(tokens, mesh))
        each = jax.tree.map(difference, found, expected[name, vocabulary])
        differences[f"{name}, {vocabulary} ids, mesh {shape}"] = max(jax.tree.leaves(each))
    print(json.dumps(differences))


if __name__ == "__main__":
    main()
