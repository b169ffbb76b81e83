// Verifies tokens by a client library as it comes from npm: node verify.js LIBRARY PORT SECRET TOKEN...
const https = require("https");
const tls = require("tls");

const [library, port, secret, ...tokens] = process.argv.slice(2);

const clients = {
  "cf-turnstile": () =>
    require("cf-turnstile")(secret, { apiUrl: `https://localhost:${port}/turnstile/v0/siteverify` }),
  "recaptcha-node": () => {
    const { RecaptchaV2 } = require("recaptcha-node");
    const client = new RecaptchaV2(secret, { hostname: "localhost", port });
    return (token) => client.verify(token);
  },
  // its address cannot be set: connections to hcaptcha.com are made to this port, and check the name as ever
  hcaptcha: () => {
    https.globalAgent.createConnection = (options) => tls.connect({ ...options, host: "localhost", port });
    return (token) => require("hcaptcha").verify(secret, token);
  },
};

(async () => {
  const verify = clients[library]();
  for (const token of tokens) {
    const found = await verify(token);
    console.log(JSON.stringify([found.success, found.errors ?? found.errorCodes ?? found["error-codes"]]));
  }
})();
