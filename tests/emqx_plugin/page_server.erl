%% Serves the plugin's page as EMQX's dashboard does, beside a stand-in for EMQX: a page with the plugin's page in a frame,
%% and `/api/v5/plugin_api/lwm2m_gateway/`, whose requests EMQX hands to the plugin's callback. The cookie `emqx_auth` names
%% the role of the user who has logged in. It ends with its standard input.
%%
%% Usage: erl -noshell -pa STANDINS -pa EBIN -run page_server main FOLDER PORT CONFIGURATION
%% EBIN is that of the plugin; CONFIGURATION is the plugin's, as JSON.
-module(page_server).

-export([main/1]).

-define(API, [<<"api">>, <<"v5">>, <<"plugin_api">>, <<"lwm2m_gateway">>]).

main([Folder, Port, Configuration]) ->
    logger:set_primary_config(level, critical),
    {ok, _} = application:ensure_all_started(inets),
    {ok, _} = application:ensure_all_started(crypto),
    standin:new(),
    standin:put(data_dir, Folder),
    standin:put(plugin_config, jiffy:decode(unicode:characters_to_binary(Configuration), [return_maps])),
    ok = application:start(lwm2m_gateway),
    Options = [binary, {packet, http_bin}, {active, false}, {reuseaddr, true}, {ip, {127, 0, 0, 1}}, {backlog, 64}],
    {ok, Listener} = gen_tcp:listen(list_to_integer(Port), Options),
    spawn_link(fun() -> accept(Listener) end),
    io:format("listening~n"),
    eof = io:get_line(""),
    ok = application:stop(lwm2m_gateway),
    halt(0).

accept(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Server = spawn(fun() -> receive go -> serve(Socket) end end),
    ok = gen_tcp:controlling_process(Socket, Server),
    Server ! go,
    accept(Listener).

serve(Socket) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, {http_request, Method, {abs_path, Target}, _}} ->
            Headers = headers(Socket, #{}),
            Body = body(Socket, binary_to_integer(maps:get(<<"content-length">>, Headers, <<"0">>))),
            #{path := Path} = Uri = uri_string:parse(Target),
            Segments = [uri_string:percent_decode(Segment) || Segment <- tl(binary:split(Path, <<"/">>, [global]))],
            Query = maps:from_list(uri_string:dissect_query(maps:get(query, Uri, <<>>))),
            Atom = list_to_existing_atom(string:lowercase(to_list(Method))),
            answer(Socket, handle(Atom, Segments, Query, Headers, Body)),
            serve(Socket);
        {ok, _} ->
            serve(Socket);
        {error, _} ->
            gen_tcp:close(Socket)
    end.

to_list(Method) when is_atom(Method) -> atom_to_list(Method);
to_list(Method) -> binary_to_list(Method).

headers(Socket, Headers) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, {http_header, _, Name, _, Value}} ->
            Key = unicode:characters_to_binary(string:lowercase(to_list(Name))),
            headers(Socket, Headers#{Key => Value});
        {ok, http_eoh} ->
            Headers
    end.

body(_Socket, 0) ->
    <<>>;
body(Socket, Length) ->
    ok = inet:setopts(Socket, [{packet, raw}]),
    {ok, Body} = gen_tcp:recv(Socket, Length),
    ok = inet:setopts(Socket, [{packet, http_bin}]),
    Body.

handle(get, [<<>>], _, _, _) ->
    Page = "<!doctype html><html lang=en><title>Dashboard</title><iframe title=plugin style='width:100%;height:760px'"
           " src='/api/v5/plugin_api/lwm2m_gateway/ui'></iframe>",
    {ok, 200, #{<<"content-type">> => <<"text/html">>}, Page};
handle(Method, Segments, Query, Headers, Body) ->
    case {lists:prefix(?API, Segments), role(Headers)} of
        {false, _} -> {error, 404, #{}, <<>>};
        {true, none} -> refused(401, <<"UNAUTHORIZED">>);
        %% EMQX's rule: a viewer has GET only.
        {true, <<"viewer">>} when Method =/= get -> refused(403, <<"UNAUTHORIZED_ROLE">>);
        {true, Role} -> plugin(Method, lists:nthtail(length(?API), Segments), Query, Headers, Body, Role)
    end.

role(Headers) ->
    Cookies = string:split(maps:get(<<"cookie">>, Headers, <<>>), "; ", all),
    case [Role || Cookie <- Cookies, [<<"emqx_auth">>, Role] <- [string:split(Cookie, "=")]] of
        [Role | _] -> Role;
        [] -> none
    end.

refused(Status, Code) ->
    {error, Status, #{<<"content-type">> => <<"application/json">>}, jiffy:encode(#{code => Code, message => Code})}.

%% EMQX decodes a JSON body, and keeps what the user has logged in with.
plugin(Method, Segments, Query, Headers, Body, Role) ->
    Decoded =
        case Body of
            <<>> -> #{};
            _ -> jiffy:decode(Body, [return_maps])
        end,
    Handed = maps:without([<<"authorization">>, <<"cookie">>], Headers),
    Request = #{method => Method, query_string => Query, headers => Handed, body => Decoded},
    Context = #{auth_meta => #{role => Role, source => dashboard}, namespace => undefined},
    case lwm2m_gateway_app:on_handle_api_call(Method, Segments, Request, Context) of
        {error, not_found} -> refused(404, <<"NOT_FOUND">>);
        Answer -> Answer
    end.

answer(Socket, {_, Status, Headers, Body}) ->
    Length = integer_to_binary(iolist_size(Body)),
    Lines = [[Name, ": ", Value, "\r\n"] || {Name, Value} <- maps:to_list(Headers#{<<"content-length">> => Length})],
    %% A client that has gone needs no answer.
    _ = gen_tcp:send(Socket, ["HTTP/1.1 ", integer_to_binary(Status), " X\r\n", Lines, "\r\n", Body]),
    ok.
