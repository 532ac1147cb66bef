"""Serving: our models behind the HTTP interface that OpenAI's clients speak (`maskdiff serve`, docs/serving.md).

    from maskdiff.serving.app import create_app
    from maskdiff.serving.local import running
    from maskdiff.serving.served import Limits, Served
    with running(create_app(Served(generator, "toy", turn=lambda text: text + ">", max_tokens=256), Limits())) as base_url:
        openai.OpenAI(base_url=base_url, api_key="none").models.list()

For: any `maskdiff.stepwise.protocol.StepBackend` of text. Not for: strangers, there being no authentication. Easy to get wrong:
this file imports nothing, because fastapi and uvicorn are an extra (`pip install "maskdiff[serve]"`).
"""
