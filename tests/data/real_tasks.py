"""Real rows as SeqIO tasks: one from TFDS with labels and options, one generation task; SST-2 as a TFDS slice."""

import os
import pathlib

import sacrebleu
import seqio
import tensorflow as tf

DATA = pathlib.Path(
    os.environ.get("CAT_JAX_TEST_DATA", pathlib.Path(__file__).resolve().parents[3] / "shared" / "data")
)
seqio.set_tfds_data_dir_override(str(DATA / "tfds"))
VOCABULARY = seqio.SentencePieceVocabulary(str(DATA / "tokenizers" / "t5_spiece.model"), extra_ids=100)
FEATURES = {name: seqio.Feature(VOCABULARY, add_eos=True) for name in ("inputs", "targets")}
STEPS = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]


def accuracy(targets, predictions):
    return {"accuracy": 100 * sum(t == p for t, p in zip(targets, predictions, strict=True)) / len(targets)}


def bleu(targets, predictions):
    return {"bleu": sacrebleu.corpus_bleu(predictions, [targets]).score}


def classification(text, options):
    @seqio.map_over_dataset
    def step(row):
        return {"inputs": text(row), "targets": tf.constant(options)[row["label"]], "options": options, **row}

    return step


CB = ["entailment", "contradiction", "neutral"]
seqio.TaskRegistry.add(
    "cb",
    source=seqio.TfdsDataSource("super_glue/cb:1.0.2", splits=["train", "validation"]),
    preprocessors=[
        classification(lambda row: "cb hypothesis: " + row["hypothesis"] + " premise: " + row["premise"], CB),
        *STEPS,
    ],
    output_features=FEATURES,
    metric_fns=[accuracy],
)
seqio.TaskRegistry.add(
    "sst2",
    source=seqio.TfdsDataSource("glue/sst2:2.0.0", splits={"train": "train[:-872]", "test": "validation"}),
    preprocessors=[classification(lambda row: row["sentence"], ["negative", "positive"]), *STEPS],
    output_features=FEATURES,
    metric_fns=[accuracy],
)


def rows(split, shuffle_files, seed=None):
    file = DATA / "text" / "multi30k" / f"{ {'test': 'test2016'}.get(split, split) }.tsv"
    tsv = tf.data.experimental.CsvDataset(str(file), [""] * 4, header=True, field_delim="\t", use_quote_delim=False)
    return tsv.map(lambda en, de, fr, cs: {"inputs": en, "targets": de})


seqio.TaskRegistry.add(
    "multi30k_en_de",
    source=seqio.FunctionDataSource(
        rows, ["train", "validation", "test"], {"train": 29_000, "validation": 1_014, "test": 1_000}
    ),
    preprocessors=STEPS,
    output_features=FEATURES,
    metric_fns=[bleu],
)
