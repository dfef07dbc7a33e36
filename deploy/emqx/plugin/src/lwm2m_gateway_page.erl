%% The console's page in EMQX's dashboard, and its API below `/api/v5/plugin_api/lwm2m_gateway/`. EMQX has logged the
%% user in, and lets viewers read only. An administrator is an operator of the console.
-module(lwm2m_gateway_page).

-export([handle/4]).

%% EMQX answers 503 in our place after five seconds.
-define(TIME, 4_500).
%% Longest time, in seconds, for which a request may ask the console to wait.
-define(LONGEST_WAIT, 3).

handle(get, [<<"ui">>], _Request, _Context) ->
    pass_on(get, "/", viewer, <<>>);
handle(get, [File], _Request, _Context) ->
    pass_on(get, ["/", lwm2m_gateway_http:segment(File)], viewer, <<>>);
handle(Method, [<<"api">>, <<"v1">> | Segments], Request, Context) ->
    Path = ["/api/v1", [["/", lwm2m_gateway_http:segment(Segment)] || Segment <- Segments], query(Request)],
    case Method of
        get -> pass_on(get, Path, reader(Context), <<>>);
        _ -> change(Method, Path, Request)
    end;
handle(_Method, _Path, _Request, _Context) ->
    {error, not_found}.

%% Where EMQX does not say whose request it is, reading is for viewers.
reader(Context) ->
    Role = maps:get(role, maps:get(auth_meta, Context, #{}), none),
    case Role =:= <<"administrator">> of
        true -> operator;
        false -> viewer
    end.

%% EMQX's cookie would let a page of another site command devices in the user's name.
change(Method, Path, Request) ->
    Headers = maps:get(headers, Request, #{}),
    Body = body(Request),
    case {is_cross_site(Headers), Body =:= <<>> orelse is_json(Headers)} of
        {true, _} -> problem(403, <<"cross-site">>, <<"The request comes from a page of another site">>);
        {false, false} -> problem(415, <<"not-json">>, <<"The content type is not application/json">>);
        {false, true} -> pass_on(Method, Path, operator, Body)
    end.

is_cross_site(Headers) ->
    case header(<<"sec-fetch-site">>, Headers) of
        none -> is_other_origin(Headers);
        Site -> not lists:member(Site, [<<"same-origin">>, <<"none">>])
    end.

is_other_origin(Headers) ->
    case {header(<<"origin">>, Headers), header(<<"host">>, Headers)} of
        {none, _} -> false;
        {Origin, Host} -> lists:last(binary:split(Origin, <<"//">>)) =/= Host
    end.

is_json(Headers) ->
    case header(<<"content-type">>, Headers) of
        none -> false;
        Type -> string:trim(hd(binary:split(Type, <<";">>))) =:= <<"application/json">>
    end.

header(Name, Headers) ->
    maps:get(Name, Headers, none).

body(Request) ->
    case maps:get(body, Request, <<>>) of
        Body when is_binary(Body) -> Body;
        Body when is_map(Body), map_size(Body) =:= 0 -> <<>>;
        Body -> emqx_utils_json:encode(Body)
    end.

%% The pairs are in percent-encoding again; `wait` stays below EMQX's limit, and the page asks again.
query(Request) ->
    case maps:to_list(maps:get(query_string, Request, #{})) of
        [] -> "";
        Pairs -> ["?", lists:join("&", [pair(Name, Value) || {Name, Value} <- Pairs])]
    end.

pair(Name, true) -> lwm2m_gateway_http:segment(Name);
pair(Name, Value) when Name =:= <<"wait">> -> ["wait=", integer_to_list(min(?LONGEST_WAIT, seconds(Value)))];
pair(Name, _) when Name =:= <<"max">> -> ["max=", integer_to_list(?LONGEST_WAIT), "s"];
pair(Name, Value) -> [lwm2m_gateway_http:segment(Name), "=", lwm2m_gateway_http:segment(Value)].

seconds(Value) ->
    case string:to_integer(Value) of
        {Seconds, _} when is_integer(Seconds), Seconds > 0 -> Seconds;
        _ -> 0
    end.

pass_on(Method, Path, Role, Body) ->
    case lwm2m_gateway_http:request(Method, Path, Role, Body, ?TIME) of
        {ok, Status, Headers, Answer} -> {ok, Status, kept(Headers), Answer};
        {error, Reason} -> problem(503, <<"not-running">>, Reason)
    end.

%% The dashboard shows the page in a frame.
kept(Headers) ->
    Kept = ["content-type", "content-security-policy", "cache-control", "etag", "location", "retry-after"],
    maps:from_list([{list_to_binary(Name), framed(Name, Value)} || {Name, Value} <- Headers, lists:member(Name, Kept)]).

framed("content-security-policy", Value) ->
    iolist_to_binary(string:replace(Value, "frame-ancestors 'none'", "frame-ancestors 'self'"));
framed(_, Value) ->
    list_to_binary(Value).

problem(Status, Type, Detail) ->
    Body = emqx_utils_json:encode(#{
        <<"type">> => <<"urn:lwm2m-gateway:problem:", Type/binary>>,
        <<"title">> => Detail,
        <<"status">> => Status
    }),
    {ok, Status, #{<<"content-type">> => <<"application/problem+json">>}, iolist_to_binary(Body)}.
