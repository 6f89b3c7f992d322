"""What every room stands on: results, evidence, charts as data, errors, checks, precision, keys, trees."""
