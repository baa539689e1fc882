"""Why a run failed: logs read down to what matters, rules, past failures, and a model if asked.

After Acme (arXiv 2403.07648): filters that grow with what healthy runs say, rules first, retrieval
over known failures next.
"""
