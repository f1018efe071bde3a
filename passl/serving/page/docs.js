// Swagger UI with the description of this server. Nothing is asked of another server.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger",
  validatorUrl: null,
  tryItOutEnabled: true,
  presets: [SwaggerUIBundle.presets.apis],
});
