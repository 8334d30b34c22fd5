/** What is made from what, from topics to stores: the graph, and of one node its way and its columns. */
import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";

import { integer } from "../format";
import { BOX, curve, draw, related } from "../graph";
import { t, word } from "../language";
import { useLineage, useLineageOf } from "../questions";
import { go, href, route } from "../route";
import { useStore } from "../store";
import type { Lineage, LineageNode, LineageOf, LineageSource } from "../types";
import { Nothing, Panel, Plain } from "../ui/panel";
import { Ago, Scroll } from "../ui/parts";

export function LineagePage() {
  const graph = useLineage();
  const chosen = useStore(route).params.get("node");
  const one = useLineageOf(chosen);
  return (
    <>
      <Panel
        title={t("lineage.title")}
        note={t("lineage.note")}
        class="full"
        size="l"
        query={graph}
        tools={
          chosen !== null && (
            <button type="button" class="button" onClick={() => go({ node: null })}>
              {t("lineage.all")}
            </button>
          )
        }
      >
        {(data) => <Graph of={data} chosen={chosen} />}
      </Panel>
      {chosen === null ? (
        <Plain title={t("lineage.columns")} class="full">
          <Nothing text={t("lineage.choose")} />
        </Plain>
      ) : (
        <Panel title={chosen} note={t("lineage.columnsNote")} class="full" query={one}>
          {(data) => <Details of={data} />}
        </Panel>
      )}
    </>
  );
}

function Graph({ of, chosen }: { of: Lineage; chosen: string | null }) {
  const drawing = useMemo(() => draw(of.nodes, of.edges), [of]);
  const near = useMemo(() => (chosen === null ? null : related(chosen, of.edges)), [of, chosen]);
  const on = (source: string, target: string) => near !== null && near.has(source) && near.has(target);
  const lines = of.edges.flatMap(({ source, target }) => {
    const [from, to] = [drawing.at.get(source), drawing.at.get(target)];
    return from && to ? [{ d: curve(from, to), on: on(source, target), key: `${source} ${target}` }] : [];
  });
  // Those that matter are drawn last, above the others.
  lines.sort((a, b) => Number(a.on) - Number(b.on));
  return (
    <Scroll label={t("lineage.title")}>
      <div
        class={near === null ? "lineage" : "lineage narrowed"}
        style={{ "--w": `${drawing.width}px`, "--h": `${drawing.height}px` }}
      >
        <svg class="lineage-lines" width={drawing.width} height={drawing.height} aria-hidden="true" focusable="false">
          {lines.map((line) => (
            <path key={line.key} d={line.d} class={line.on ? "on" : undefined} />
          ))}
        </svg>
        {drawing.columns.map((column) => (
          <section key={column.stage} aria-labelledby={`stage-${column.stage}`}>
            <h3 id={`stage-${column.stage}`} style={{ "--x": `${column.x}px` }}>
              {t(`stage.${column.stage}`)}
            </h3>
            {column.headings.map((one) => (
              <p key={one.system} class="lineage-system" style={{ "--x": `${column.x}px`, "--y": `${one.y}px` }}>
                {word("store", one.system)}
              </p>
            ))}
            <ul>
              {column.places.map((place) => (
                <li
                  key={place.node.id}
                  class={near?.has(place.node.id) === false ? "apart" : undefined}
                  style={{ "--x": `${place.x}px`, "--y": `${place.y}px`, "--bw": `${place.width}px`, "--bh": `${BOX}px` }}
                >
                  <button
                    type="button"
                    class={near?.has(place.node.id) ? "node on" : "node"}
                    aria-pressed={place.node.id === chosen}
                    title={place.node.id}
                    onClick={() => go({ node: place.node.id === chosen ? null : place.node.id })}
                  >
                    {column.stage === "store" && <span class="node-system">{word("store", place.node.system)} </span>}
                    {place.label}
                  </button>
                </li>
              ))}
            </ul>
          </section>
        ))}
      </div>
    </Scroll>
  );
}

function Details({ of }: { of: LineageOf }) {
  const known = of.columns.some((column) => column.sources.length > 0);
  return (
    <>
      <dl class="facts lineage-facts">
        <Fact name={t("lineage.job")}>
          <code>{of.job}</code>
        </Fact>
        <Newest of={of} />
        <Fact name={t("lineage.upstream")}>
          <Links of={of.upstream} />
        </Fact>
        <Fact name={t("lineage.downstream")}>
          <Links of={of.downstream} />
        </Fact>
        {of.decided_by.length > 0 && (
          <Fact name={t("lineage.decided")}>
            <ul class="lineage-sources">
              {of.decided_by.map((one) => (
                <From key={`${one.id} ${one.column} ${one.how}`} of={one} />
              ))}
            </ul>
          </Fact>
        )}
      </dl>
      {of.columns.length === 0 ? (
        <p class="footnote">{t("lineage.noColumns")}</p>
      ) : (
        <Scroll label={t("lineage.columns")}>
          <table class="rows lineage-columns">
            <thead>
              <tr>
                <th scope="col">{t("lineage.column")}</th>
                <th scope="col" class="opt">
                  {t("lineage.type")}
                </th>
                <th scope="col">{t("lineage.from")}</th>
              </tr>
            </thead>
            <tbody>
              {of.columns.map((column) => (
                <tr key={column.name}>
                  <th scope="row" class="mono">
                    {column.name}
                  </th>
                  <td class="opt mono clip" title={column.type}>
                    {column.type}
                  </td>
                  <td>
                    {column.sources.length === 0 ? (
                      <span class="lineage-none">{t(known ? "lineage.counted" : "lineage.undeclared")}</span>
                    ) : (
                      <ul class="lineage-sources">
                        {column.sources.map((one) => (
                          <From key={`${one.id} ${one.column}`} of={one} />
                        ))}
                      </ul>
                    )}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </>
  );
}

function Newest({ of }: { of: LineageNode }) {
  if (of.kind === "store" && of.behind !== null) {
    return (
      <Fact name={t("pipeline.stores")}>
        {of.behind === 0 ? t("pipeline.upToDate") : t("pipeline.behind", { n: integer(of.behind) })}
      </Fact>
    );
  }
  const number = of.kind === "topic" ? of.batch : of.version;
  if (number === null) return null;
  return (
    <Fact name={t(of.kind === "topic" ? "lineage.batch" : "pipeline.version")}>
      {integer(number)}, <Ago at={of.at} />
    </Fact>
  );
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function Links({ of }: { of: readonly string[] }) {
  if (of.length === 0) return <>{t("lineage.nothing")}</>;
  return (
    <ul class="lineage-links">
      {of.map((id) => (
        <li key={id}>
          <a class="mono" href={href("lineage", { node: id })}>
            {id}
          </a>
        </li>
      ))}
    </ul>
  );
}

function From({ of }: { of: LineageSource }) {
  return (
    <li>
      <a class="mono" href={href("lineage", { node: of.id })}>
        {of.id}
      </a>
      <span class="mono">.{of.column}</span> <small>{word("how", of.how)}</small>
      {of.what !== null && <small class="mono"> {of.what}</small>}
    </li>
  );
}
