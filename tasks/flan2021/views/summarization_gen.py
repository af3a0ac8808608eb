"""Fields of the summarization sets: what is summarized under TFDS's name, and `answer`, the summary."""

from __future__ import annotations

import tensorflow as tf
from cat_jax_tasks.flan2021.views import text
from cat_jax_tasks.flan2021.views.fields import first
from cat_jax_tasks.flan2021.views.text import Fields, Row

# A film has up to hundreds of reviews and a claim dozens of arguments: as many as an input of about 1,000 tokens holds.
_MOST_OPINIONS = 20


def aeslc(row: Row) -> Fields:
    """The answer is the subject line that the sender gave the email."""
    body = text.lines(row["email_body"])
    return {"email_body": body, "answer": text.given(text.one_line(row["subject_line"]), body)}


def cnn_dailymail(row: Row) -> Fields:
    """The answer is a highlight a line."""
    article = text.lines(row["article"])
    return {"article": article, "answer": text.given(text.lines(row["highlights"]), article)}


def gigaword(row: Row) -> Fields:
    """Tokens are put together again; the text stays lower case, with # for each digit and UNK for rare words."""
    document = _untokenized(row["document"])
    return {"document": document, "answer": text.given(_untokenized(row["summary"]), document)}


def _untokenized(tokens: tf.Tensor) -> tf.Tensor:
    joined = tokens
    for pattern, replacement in (
        (r"-lrb- ?", "("),
        (r" ?-rrb-", ")"),
        ("`` ?", '"'),
        (r"(\S) ''(\s|$)", r'\1"\2'),
        (r" ('(?:s|re|ve|ll|d|m)|n't)\b", r"\1"),
        (r" ([.,;:!?]+)(\s|$)", r"\1\2"),
        (r"\$ #", "$#"),
    ):
        joined = tf.strings.regex_replace(joined, pattern, replacement)
    return text.one_line(joined)


def multi_news(row: Row) -> Fields:
    """The articles, which "|||||" parts, are numbered; the dash that begins each summary goes."""
    articles = text.filled(tf.strings.split(tf.strings.regex_replace(row["document"], r"\|{5}", "\v"), "\v"))
    documents = text.numbered(articles, before="Article ", after=":\n", separator="\n\n")
    summary = text.one_line(tf.strings.regex_replace(row["summary"], r"^\s*[\x{2013}\x{2014}-]\s*", ""))
    return {"documents": documents, "first_document": first(articles), "answer": text.given(summary, documents)}


def newsroom(row: Row) -> Fields:
    """Rows without a title are left out, since templates ask for it."""
    document, title = text.lines(row["text"]), text.one_line(row["title"])
    return {"text": document, "title": title, "answer": text.given(text.one_line(row["summary"]), document, title)}


def opinion_abstracts_rotten_tomatoes(row: Row) -> Fields:
    """The answer is the critics' consensus, without its markup."""
    movie = text.one_line(row["_movie_name"])
    reviews = text.filled(text.without_tags(row["_critics"]["value"]))[:_MOST_OPINIONS]
    return {
        "movie": movie,
        "reviews": text.bulleted(reviews),
        "first_review": first(reviews),
        "answer": text.given(text.without_tags(row["_critic_consensus"]), movie, first(reviews)),
    }


def opinion_abstracts_idebate(row: Row) -> Fields:
    """The answer is the claim that the sentences of one argument support."""
    debate = text.one_line(row["_debate_name"])
    arguments = text.filled(text.one_line(row["_argument_sentences"]["value"]))[:_MOST_OPINIONS]
    return {
        "debate": debate,
        "arguments": text.bulleted(arguments),
        "first_argument": first(arguments),
        "answer": text.given(text.one_line(row["_claim"]), debate, first(arguments)),
    }


def samsum(row: Row) -> Fields:
    """A line is what one person says; one dialogue is empty."""
    dialogue = text.lines(row["dialogue"])
    return {"dialogue": dialogue, "answer": text.given(text.one_line(row["summary"]), dialogue)}


def xsum(row: Row) -> Fields:
    """The answer is the article's own first sentence, which the document lacks."""
    document = text.lines(row["document"])
    return {"document": document, "answer": text.given(text.one_line(row["summary"]), document)}


def wiki_lingua_english_en(row: Row) -> Fields:
    """The answer is the headings of a how-to page's steps, the source the paragraphs below them."""
    source = text.lines(row["source"])
    return {"source": source, "answer": text.given(text.one_line(row["target"]), source)}
