"""Solving step by step, over any backend, with several candidates where the model is unsure.

    from maskdiff.checkpoint import load_denoiser
    from maskdiff.config import StepConfig
    from maskdiff.stepwise.causal import CausalBackend
    from maskdiff.stepwise.solver import Solver
    loaded = load_denoiser("checkpoints/arithmetic-steps.pt")
    solver = Solver(CausalBackend(loaded), StepConfig(strategy="adaptive"), loaded.language, loaded)
    for solution in solver.solving(["(+ 3 (* 2 4))"]):
        print(solution.text, solution.correct, solution.answer.spent.forward_tokens)

Nothing is imported here, so that `--help` of a command does not wait for torch.
"""
