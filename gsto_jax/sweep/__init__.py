"""Trains variants of a config with several seeds each, and compares their scores.

rows        variants, their runs, and the options that must agree
pool        runs training jobs in parallel subprocesses
run_result  reads the folder and the log of a run
statistics  confidence intervals and paired tests
results     comparison of the rows, as JSON and CSV
markdown    comparison as text and as a table
figure      comparison as a figure
"""
