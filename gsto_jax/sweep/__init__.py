"""Trains several rows with several seeds each, and compares their scores.

rows        the rows, their runs, and which settings must agree
pool        runs training jobs in parallel subprocesses
outcome     reads a run's folder and log
statistics  intervals and paired tests
results     the comparison, as JSON and CSV
markdown    the comparison as text and as a table
figure      the comparison as a figure
"""
