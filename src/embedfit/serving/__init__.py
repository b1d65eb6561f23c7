"""A server for embedding models: TEI's, OpenAI's, SageMaker's and Vertex AI's protocols."""
