/**
 * The calls of this exchange, read from its OpenAPI document. Forms show the fields and words that the servers accept, including those that are newer
 * than this page.
 */

/** @typedef {import("./cluster.js").Cluster} Cluster */
/** @typedef {{name: string, kind: "text" | "decimal" | "boolean" | "choice" | "integer", choices: string[], required: boolean, words: string}} Field */

export class Contract {
  /** @param {any} document */
  constructor(document) {
    this.document = document;
  }

  /** @param {Cluster} cluster */
  static async read(cluster) {
    return new Contract(await cluster.read("/openapi.json"));
  }

  /** Whether a call exists. @param {string} method @param {string} path as the document writes it @returns {boolean} */
  has(method, path) {
    return this.document.paths?.[path]?.[method.toLowerCase()] !== undefined;
  }

  /** The first of these calls that exists, such as "PUT /orders/{id}". @param {string[]} calls @returns {{method: string, path: string} | null} */
  first(...calls) {
    for (const call of calls) {
      const [method, path] = call.split(" ");
      if (this.has(method, path)) return { method, path };
    }
    return null;
  }

  /** The fields of a call's JSON body. @param {string} method @param {string} path @returns {Field[]} */
  fields(method, path) {
    const content = this.document.paths?.[path]?.[method.toLowerCase()]?.requestBody?.content;
    const schema = this.#followed(content?.["application/json"]?.schema);
    return Object.entries(schema?.properties ?? {}).map(([name, property]) => this.#field(name, property, schema.required ?? []));
  }

  /** The words of an enumeration, or `fallback` if the document has none. @param {string} method @param {string} path @param {string} name @param {string[]} fallback */
  choices(method, path, name, fallback) {
    const found = this.fields(method, path).find((field) => field.name === name)?.choices ?? [];
    return found.length > 0 ? found : fallback;
  }

  /** @param {any} schema @returns {any} */
  #followed(schema) {
    const name = schema?.$ref?.split("/").at(-1);
    return name === undefined ? schema : this.document.components?.schemas?.[name];
  }

  /** @param {string} name @param {any} property @param {string[]} required @returns {Field} */
  #field(name, property, required) {
    const schema = this.#followed(property);
    const kinds = (schema.anyOf ?? [schema]).map((/** @type {any} */ kind) => this.#followed(kind));
    const choices = kinds.flatMap((/** @type {any} */ kind) => kind.enum ?? []).map(String);
    const types = new Set(kinds.map((/** @type {any} */ kind) => kind.type));
    const decimal = types.has("string") && types.has("number");
    const kind = choices.length > 0 ? "choice" : decimal ? "decimal" : types.has("boolean") ? "boolean" : types.has("string") ? "text" : "integer";
    return { name, kind, choices, required: required.includes(name), words: schema.description ?? "" };
  }
}
