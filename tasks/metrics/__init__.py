"""Metrics of the tasks that come with cat-jax: functions of (targets, predictions), in percent unless said."""
