"""Solving step by step, over any backend, with more candidates only where the model is unsure.

    from maskdiff.checkpoint import load_denoiser
    from maskdiff.config import StepConfig
    from maskdiff.stepwise.causal import CausalBackend
    from maskdiff.stepwise.solver import Solver
    loaded = load_denoiser("checkpoints/arithmetic-steps.pt")
    solver = Solver(CausalBackend(loaded), StepConfig(strategy="adaptive"), loaded.language, loaded)
    for solution in solver.solving(["(+ 3 (* 2 4))"]):
        print(solution.text, solution.correct, solution.answer.spent.forward_tokens)

Not for: command lines other than the verb `solve` (`door.py`). Easy to get wrong: a backend that
closes the turn answers fluently, and from the beginning, at every step; `Solver` refuses one (see
`probe.py`). Nothing is imported here, so that the door that only prints its help need not wait for
torch.
"""
