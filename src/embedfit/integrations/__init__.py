"""The model in other people's frameworks: LangChain, LlamaIndex, SageMaker content handlers."""
