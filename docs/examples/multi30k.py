"""Multi30k, English to German: a task of your own in a module of your own, scored by sacreBLEU."""

import os

import sacrebleu
import seqio
import tensorflow as tf

ROOT = os.environ["MULTI30K"]  # train.tsv, validation.tsv, test2016.tsv with columns en, de, fr, cs
VOCABULARY = seqio.SentencePieceVocabulary(os.environ["MULTI30K_VOCABULARY"])


def rows(split, shuffle_files, seed=None):
    file = os.path.join(ROOT, {"test": "test2016"}.get(split, split) + ".tsv")
    tsv = tf.data.experimental.CsvDataset(file, [""] * 4, header=True, field_delim="\t", use_quote_delim=False)
    return tsv.map(lambda en, de, fr, cs: {"inputs": en, "targets": de})


def bleu(targets, predictions):
    return {"bleu": sacrebleu.corpus_bleu(predictions, [targets]).score}


seqio.TaskRegistry.add(
    "multi30k_en_de",
    source=seqio.FunctionDataSource(rows, splits=["train", "validation", "test"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={name: seqio.Feature(VOCABULARY) for name in ("inputs", "targets")},
    metric_fns=[bleu],
)
